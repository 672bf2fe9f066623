"""The destination of a painted clip: a film, a folder of frames, or both."""

import os
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS
from neuart_jax.io.clips.opening import holds_frames, is_clip
from neuart_jax.io.decoding import readable_extensions
from neuart_jax.io.images import WRITABLE
from neuart_jax.io.paths import check_place

_ANIMATIONS = (".gif", ".webp", ".apng")
_CODECS = {".mov": "prores", ".mkv": "ffv1"}
# Extensions of animations, and those of the animations painted from them.
_LIKE_ITS_SOURCE = {".gif": ".gif", ".webp": ".webp", ".apng": ".apng", ".png": ".apng"}

FILM_NAME = "result"
"""Name of the film in a folder, without its extension."""


class FilmPlace(NamedTuple):
    """The destination of a painted clip.

    Attributes:
      folder: folder of the frames, the record and the metrics; None if still unnamed.
      film: path of the film; None if its folder is still unnamed, or if there is no film.
      extension: extension of the film; empty without a film.
      codec: key of `FILM_CODECS`; empty for animations and without a film.
    """

    folder: Path | None
    film: Path | None
    extension: str
    codec: str

    def settle(self, folder: Path) -> "FilmPlace":
        """Return the destination with its folder named."""
        film = folder / f"{FILM_NAME}{self.extension}" if self.extension else None
        return self._replace(folder=folder, film=film)


def is_clip_run(config: Config) -> bool:
    """Return whether a run's content is a clip: a film, an animation or a folder of frames.

    An animation isn't a clip if the requested result is an image: its first frame is painted.
    """
    content = config.images.content
    if not content:
        return False
    path = check_place(content, name="--content")
    if path.is_dir():
        return holds_frames(path)
    wants_image = Path(config.output.output).suffix.lower() in set(WRITABLE) - set(_ANIMATIONS)
    return is_clip(path) and not (wants_image and path.suffix.lower() in _LIKE_ITS_SOURCE)


def find_film_place(config: Config) -> FilmPlace:
    """Find the destination of a painted clip from --output.

    A name with the extension of a film or an animation is that of the film, with a folder of the
    same name beside it; any other name is that of a folder, which also holds the film.

    Raises:
      InputError: the name is that of an image or of a film that can't be written, or the codec
        can't be stored in such a film.
    """
    output, content = config.output.output, Path(config.images.content)
    path = check_place(output, name="--output")
    extension = path.suffix.lower()
    is_folder = not output or output.endswith(("/", os.sep)) or path.is_dir() or not extension
    if is_folder:
        usual = _LIKE_ITS_SOURCE.get(content.suffix.lower(), ".mp4")
        usual = {"prores": ".mov", "ffv1": ".mkv"}.get(config.video.film_codec, usual)
        place = FilmPlace(None, None, usual, _find_codec(config, usual))
        return place.settle(path) if output else place
    if extension in (*FILM_EXTENSIONS, *_ANIMATIONS):
        return FilmPlace(path.with_suffix(""), path, extension, _find_codec(config, extension))
    if extension in WRITABLE or extension in readable_extensions() or len(extension) <= _LONGEST:
        raise InputError(
            f"--output={output} ends in {path.suffix}, and --content={content} is a clip",
            expected=f"a film that ends in {', '.join((*FILM_EXTENSIONS, *_ANIMATIONS))}, or a "
            "folder",
            remedy="change the extension, or add a slash for a folder with the film and its "
            "numbered frames",
        )
    return FilmPlace(None, None, ".mp4", _find_codec(config, ".mp4")).settle(path)


# Longer endings aren't extensions, but parts of folder names that contain a dot.
_LONGEST = 5


def _find_codec(config: Config, extension: str) -> str:
    if extension in FILM_EXTENSIONS:
        return config.video.film_codec or _CODECS.get(extension, "h264")
    if config.video.film_codec:
        raise InputError(
            f"--film_codec={config.video.film_codec} came with an animation ({extension})",
            expected=f"a film that ends in {', '.join(FILM_EXTENSIONS)}",
            remedy="leave --film_codec out, or change the extension of --output",
        )
    return ""
