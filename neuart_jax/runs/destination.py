"""Destinations of a run's image and folder, checked before anything is computed."""

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
# Largest side, in pixels, by format.
_LARGEST_SIDES = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}


class Destination(NamedTuple):
    """The destination of a run's files.

    Attributes:
      folder: folder of all files; empty for the default one.
      image_path: path of the image beside the folder; None for an image in the folder.
    """

    folder: str
    image_path: Path | None

    def put_image(self, made: Path) -> Path:
        """Copy the image from the run's folder to its destination; return its path."""
        if self.image_path is None:
            return made
        # Left by killed copies. Young files are kept, as other processes may be writing there.
        remove_leftovers(self.image_path.parent, seconds=_SECONDS_OF_A_COPY)
        with open(made, "rb") as source, write_atomically(self.image_path) as file:
            shutil.copyfileobj(source, file)
        return self.image_path


def find_destination(output: OutputConfig) -> Destination:
    """Determine whether --output names an image or a folder.

    A name with an image's extension is an image, unless it is an existing folder; the run's folder
    is then the name without the extension.

    Raises:
      InputError: the extension is one of an image format that can't be written, or close to an
        image's; or `image_name` is given as well.
    """
    path = check_place(output.output, name="--output")
    if not output.output or output.output.endswith(("/", os.sep)) or path.is_dir():
        return Destination(str(path) if output.output else "", None)
    extension = path.suffix.lower()
    if extension in FILM_EXTENSIONS:
        raise InputError(
            f"--output={output.output} ends in {path.suffix}, but --content is no clip",
            expected=f"a folder, or an image that ends in {', '.join(WRITABLE)}",
            remedy="give a film, an animation or a folder of numbered frames as --content, or "
            "change the extension",
        )
    if extension not in WRITABLE:
        is_image = extension in readable_extensions()
        if is_image or difflib.get_close_matches(extension, WRITABLE, n=1, cutoff=0.7):
            raise InputError(
                f"--output={output.output} ends in {path.suffix}",
                expected=f"a folder, or an image that ends in {', '.join(WRITABLE)}",
                remedy="change the extension, or add a slash if it is a folder",
            )
        return Destination(str(path), None)
    if output.image_name not in (OutputConfig().image_name, path.name):
        raise InputError(
            f"--output={output.output} came with --image_name={output.image_name}",
            expected="one name for the image",
            remedy="leave one of the two out",
        )
    return Destination(str(path.with_suffix("")), path)


def find_batch_folder(output: OutputConfig) -> Path:
    """Return the folder of a batch.

    Raises:
      InputError: --output is missing or names an image.
    """
    destination = find_destination(output)
    if not destination.folder or destination.image_path is not None:
        raise InputError(
            f"--output={output.output} is an image" if output.output else "--output is missing",
            expected="a folder for all pairs",
            remedy="give --output=FOLDER" if output.output else "add --output=FOLDER",
        )
    return Path(destination.folder)


def check_image_name(name: str) -> None:
    """Check that a name can be used for the image in a run's folder.

    Raises:
      InputError: the name isn't a plain file name, is taken, or has an unknown extension.
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
            remedy="choose another name",
        )
    check_output_name(name)


def check_room_in_file(name: str, *, height: int, width: int) -> None:
    """Check that the file format of a name supports an image of a size in pixels.

    Raises:
      InputError: the image is too large for the format.
    """
    extension = Path(name).suffix.lower()
    largest = _LARGEST_SIDES.get(extension)
    if largest is not None and max(height, width) > largest:
        raise InputError(
            f"{name} would have {width}x{height} pixels",
            expected=f"at most {largest} per side, the limit of {extension} files",
            remedy="use a .png or .tif file, or a smaller --size",
        )


@contextlib.contextmanager
def removing_empty_folders(folders: Iterable[Path]) -> Iterator[None]:
    """If the block fails, remove folders, and their parents, that didn't exist before.

    Folders that aren't empty are kept.
    """
    missing = [f for folder in folders for f in (folder, *folder.parents) if not f.exists()]
    try:
        yield
    except BaseException:
        for folder in sorted(set(missing), key=lambda f: len(f.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
