"""Where a run's picture and its folder go, checked before anything is computed."""

import contextlib
import difflib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS
from neuart_jax.io.decoding import readable_extensions
from neuart_jax.io.files import remove_leftovers, write_atomically
from neuart_jax.io.images import WRITABLE, check_output_name
from neuart_jax.io.paths import check_place

PLOT_NAME = "losses.png"
"""Name of the plot of the losses, in a run's folder."""

_SECONDS_OF_A_COPY = 3600
# Pixels a side that a kind of file holds.
_LARGEST_SIDES = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}


class Destination(NamedTuple):
    """Where a run writes.

    Attributes:
      folder: of all its files; empty for one that is still to be named.
      picture: a file beside the folder that is to be the picture; None where it is in the folder.
    """

    folder: str
    picture: Path | None

    def put_picture(self, made: Path) -> Path:
        """Copy the picture of a run's folder to where it is wanted; return its path there."""
        if self.picture is None:
            return made
        # Of copies that were killed; others may write there.
        remove_leftovers(self.picture.parent, seconds=_SECONDS_OF_A_COPY)
        with open(made, "rb") as source, write_atomically(self.picture) as file:
            shutil.copyfileobj(source, file)
        return self.picture


def find_destination(output: OutputConfig) -> Destination:
    """Tell whether --output names a picture or a folder.

    A name that ends like a picture is one, unless there is such a folder; then the folder is what
    the name is without its end.

    Raises:
      InputError: it names a kind of picture that can't be written, or nearly names one; or
        `image_name` is given as well.
    """
    path = check_place(output.output, name="--output")
    if not output.output or output.output.endswith(("/", os.sep)) or path.is_dir():
        return Destination(str(path) if output.output else "", None)
    extension = path.suffix.lower()
    if extension in FILM_EXTENSIONS:
        raise InputError(
            f"--output={output.output} ends in {path.suffix}, and --content is no clip",
            expected=f"a folder, or a picture that ends in {', '.join(WRITABLE)}",
            remedy="give a film, an animation or a folder of numbered frames as --content, or "
            "change the end",
        )
    if extension not in WRITABLE:
        is_picture = extension in readable_extensions()
        if is_picture or difflib.get_close_matches(extension, WRITABLE, n=1, cutoff=0.7):
            raise InputError(
                f"--output={output.output} ends in {path.suffix}",
                expected=f"a folder, or a picture that ends in {', '.join(WRITABLE)}",
                remedy="change its end, or put a slash behind it if it is to be a folder",
            )
        return Destination(str(path), None)
    if output.image_name not in (OutputConfig().image_name, path.name):
        raise InputError(
            f"--output={output.output} came with --image_name={output.image_name}",
            expected="one name for the picture",
            remedy="leave one of the two out",
        )
    return Destination(str(path.with_suffix("")), path)


def find_batch_folder(output: OutputConfig) -> Path:
    """Return the folder of many pairs.

    Raises:
      InputError: there is none, or --output names a picture.
    """
    destination = find_destination(output)
    if not destination.folder or destination.picture is not None:
        raise InputError(
            f"--output={output.output} is a picture" if output.output else "--output is missing",
            expected="a folder for all pairs",
            remedy="give --output=FOLDER" if output.output else "add --output=FOLDER",
        )
    return Path(destination.folder)


def check_image_name(name: str) -> None:
    """Check that a picture can have this name in a run's folder.

    Raises:
      InputError: it is no plain name, is taken, or has an extension that no format goes by.
    """
    if Path(name).name != name:
        raise InputError(
            f"--image_name={name!r} is not a plain file name",
            expected="a name such as result.png",
            remedy="put the folder into --output",
        )
    if name.lower() == PLOT_NAME:
        raise InputError(
            f"--image_name={name} is the name of the plot of the losses",
            expected="another name, such as result.png",
            remedy="change it",
        )
    check_output_name(name)


def check_room_in_file(name: str, *, height: int, width: int) -> None:
    """Check that the kind of file that a name stands for holds a picture of a size in pixels.

    Raises:
      InputError: it doesn't.
    """
    extension = Path(name).suffix.lower()
    largest = _LARGEST_SIDES.get(extension)
    if largest is not None and max(height, width) > largest:
        raise InputError(
            f"{name} would have {width}x{height} pixels",
            expected=f"at most {largest} a side, which is all that a {extension} file holds",
            remedy="end the name in .png or .tif, or take a smaller --size",
        )


@contextlib.contextmanager
def removing_empty_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Remove folders that weren't there before, and those above them, if the block fails.

    Those that hold something by then stay.
    """
    missing = [f for folder in folders for f in (folder, *folder.parents) if not f.exists()]
    try:
        yield
    except BaseException:
        for folder in sorted(set(missing), key=lambda f: len(f.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
