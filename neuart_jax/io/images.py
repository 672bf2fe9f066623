"""Loading and saving images.

Everywhere in this package an image is ``float32[height, width, 3]``, sRGB in [0, 1], upright and
opaque. This module alone handles transparency, scaling and the formats that are written; `decoding`
handles the formats that are read. Images are scaled in float, in sRGB without linearization.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from neuart_jax.config.errors import InputError
from neuart_jax.io.decoding import MAX_PIXELS, Float32, decode, open_lazily, quantize, reading
from neuart_jax.io.files import PathLike, brief_cause, write_atomically
from neuart_jax.io.paths import read_whole

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""The extensions that `save_image` knows."""


# The largest image with 16 bits and transparency has 1.4 GB uncompressed.
_MOST_BYTES = 4 << 30


class LoadedImage(NamedTuple):
    """An image and facts about its file.

    Attributes:
      image: float32[height, width, 3], sRGB in [0, 1], composited over white.
      alpha: float32[height, width] in [0, 1], or None when every pixel is opaque.
      sha256: hexadecimal SHA-256 of the file's bytes.
      file_size: height and width in the file, upright, in pixels.
    """

    image: Float32
    alpha: Float32 | None
    sha256: str
    file_size: tuple[int, int] = (0, 0)


def load_image(
    path: PathLike, *, size: int | None = None, enlarge: bool = False, trim: bool = False
) -> LoadedImage:
    """Load an image of nearly any format as float32 sRGB.

    The file is decoded as `decoding.decode` describes. Transparent pixels are composited over
    white, so that the network doesn't see the arbitrary colors below them; ``save_image`` can
    restore ``alpha``. Compositing precedes scaling, which is equivalent to scaling colors
    premultiplied by alpha, so hidden colors don't bleed into the edges.

    Args:
      path: the file.
      size: length of the longer side in pixels, after orientation; the aspect ratio is kept.
        None keeps the image's own size.
      enlarge: whether to scale up an image smaller than ``size``.
      trim: whether to crop fully transparent rows and columns at the border.

    Returns:
      The image, with its alpha channel, digest and size in the file.

    Raises:
      InputError: the file can't be read as an image, or ``size`` is out of range.
    """
    if size is not None and size < 1:
        raise InputError(
            f"size={size} is not positive",
            expected="a whole number of pixels of at least 1",
            remedy="leave it out to keep the image's own size",
        )
    data = _read_bytes(path)
    image, alpha = decode(data, name=path)
    if alpha is not None:
        if trim:
            image, alpha = _trim(image, alpha)
        image = image * alpha[..., None] + (1 - alpha[..., None])
    height, width = file_size = image.shape[:2]
    longest = max(height, width)
    if size is not None and (size < longest or enlarge):
        # Reduced by way of the largest double of the size that the file has: `halve_image`.
        halvings = max(0, (longest // size).bit_length() - 1)
        unit = (size << halvings) / longest
        height, width = (max(1, round(side * unit)) for side in (height, width))
        if height * width > MAX_PIXELS:
            raise InputError(
                f"size={size} would scale {path} to {width} x {height} pixels",
                expected=f"at most {MAX_PIXELS:,} pixels",
                remedy="choose a smaller size",
            )
        image = halve_image(resize_image(image, height, width), halvings)
        alpha = (
            alpha if alpha is None else halve_image(resize_image(alpha, height, width), halvings)
        )
    return LoadedImage(image, alpha, hashlib.sha256(data).hexdigest(), file_size)


def show_over_black(image: Float32, alpha: Float32 | None) -> Float32:
    """Composite an image over black, so that transparent parts of a mask aren't white.

    Args:
      image: float32[height, width, 3], composited over white, as images and frames are loaded.
      alpha: its opacity, float32[height, width]; None if every pixel is opaque.
    """
    return image if alpha is None else np.clip(image - (1 - alpha[..., None]), 0, 1)


def resize_image(image: npt.ArrayLike, height: int, width: int) -> Float32:
    """Resize an image with a Lanczos kernel in float, then clip it to [0, 1].

    Args:
      image: float32[height', width'] or float32[height', width', channels] in [0, 1].
      height: new height in pixels, at least 1.
      width: new width in pixels, at least 1.

    Returns:
      float32[height, width] or float32[height, width, channels].
    """
    return _per_channel(image, lambda im: im.resize((width, height), Image.Resampling.LANCZOS))


def halve_side(side: int, halvings: int) -> int:
    """Return the pixels of a side that is halved, and rounded, again and again; at least 1."""
    for _ in range(halvings):
        side = max(1, round(side / 2))
    return side


def halve_image(image: npt.ArrayLike, halvings: int) -> Float32:
    """Halve an image again and again.

    Optimization lets the smallest differences grow: a photograph reduced from 1024 to 256 pixels at
    once, and by way of 512, gets other strokes. By way of all sizes between, an image of 256 pixels
    is the same bit for bit whichever of them it comes from.

    Args:
      image: float32[height, width] or float32[height, width, channels] in [0, 1].
      halvings: how often; 0 returns the image.

    Returns:
      float32 of `halve_side`'s sides.
    """
    halved = np.asarray(image, np.float32)
    for _ in range(halvings):
        halved = resize_image(halved, *(halve_side(side, 1) for side in halved.shape[:2]))
    return halved


def fill_resize(image: npt.ArrayLike, height: int, width: int) -> Float32:
    """Resize an image so that it covers a size, and crop the excess evenly on both sides.

    Args:
      image: float32[height', width'] or float32[height', width', channels] in [0, 1].
      height: new height in pixels, at least 1.
      width: new width in pixels, at least 1.

    Returns:
      float32[height, width] or float32[height, width, channels].
    """
    return _per_channel(
        image, lambda im: ImageOps.fit(im, (width, height), Image.Resampling.LANCZOS)
    )


def save_image(
    path: PathLike,
    image: npt.ArrayLike,
    *,
    alpha: npt.ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save an image atomically, in the format of the name's extension.

    PNG has 8 bits; TIFF has 16, losslessly compressed; JPEG (4:4:4) and WebP have quality 95.
    Values are clipped to [0, 1] and rounded to the nearest level. The file is tagged as sRGB.

    Args:
      path: the file, with an extension from ``WRITABLE``.
      image: float32[height, width, 3], sRGB in [0, 1].
      alpha: float32[height, width] in [0, 1], stored as an alpha channel; for JPEG, which has none,
        the image is composited over white.
      metadata: strings to store in the file, read back by ``load_metadata``. In PNG they are text
        chunks under their own keys (Latin-1, at most 79 characters), elsewhere JSON in the field
        ImageDescription, which in JPEG and WebP holds up to 64 kB.

    Raises:
      InputError: the name's extension is unknown or the file can't be written.
      ValueError: a value is not finite or the shapes don't match.
    """
    check_output_name(path)
    pixels = np.asarray(image, np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"image has shape {pixels.shape}, expected (height, width, 3)")
    opacity = None if alpha is None else np.asarray(alpha, np.float32)[..., None]
    if opacity is not None and opacity.shape[:2] != pixels.shape[:2]:
        raise ValueError(f"alpha {opacity.shape[:-1]} doesn't fit an image of {pixels.shape}")
    for name, values in (("image", pixels), ("alpha", opacity)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite, so it can't be saved")
    extension = _extension(path)
    if opacity is not None and extension in (".jpg", ".jpeg"):
        pixels, opacity = np.clip(pixels, 0, 1) * opacity + (1 - opacity), None
    if opacity is not None:
        pixels = np.concatenate([pixels, opacity], axis=-1)
    try:
        encoded = _encode(extension, pixels, dict(metadata or {}))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't hold this image ({brief_cause(error)})",
            expected="a format with room for its size and its metadata",
            remedy="save it as .png or .tif",
        ) from error
    with write_atomically(path) as file:
        file.write(encoded)


def load_metadata(path: PathLike) -> dict[str, str]:
    """Return the metadata that ``save_image`` stored in a file; empty if there is none.

    The metadata of an animation, from ``animation_writing.save_animation``, is read as well.
    """
    data = _read_bytes(path)
    with reading(path, data), open_lazily(data) as image:
        if image.format == "PNG":
            return {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
        if image.format == "GIF":
            return unpack_metadata(image.info.get("comment", ""))
        return unpack_metadata(image.getexif().get(ExifTags.Base.ImageDescription, ""))


def pack_metadata(metadata: Mapping[str, str]) -> str:
    """Return metadata as JSON in ASCII, the only text that ImageDescription may hold."""
    return json.dumps(dict(metadata)) if metadata else ""


def unpack_metadata(text: str | bytes) -> dict[str, str]:
    """Return the metadata in a text of `pack_metadata`; empty for another program's text."""
    try:
        found = json.loads(text)
    # Malicious nesting raises RecursionError.
    except (TypeError, ValueError, RecursionError):
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def metadata_options(kind: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return Pillow's options that store metadata in a file.

    Args:
      kind: Pillow's name of the format: PNG, WEBP, JPEG or GIF.
      metadata: as in `save_image`.
    """
    if kind == "PNG":
        chunks = PngInfo()
        chunks.add(b"sRGB", b"\0")
        for key, value in metadata.items():
            chunks.add_itxt(key, value)
        return {"pnginfo": chunks}
    if not metadata:
        return {}
    if kind == "GIF":
        return {"comment": pack_metadata(metadata).encode()}
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = pack_metadata(metadata)
    return {"exif": exif}


def check_output_name(path: PathLike) -> None:
    """Check that a name has an extension that ``save_image`` can write.

    Raises:
      InputError: the name has another extension.
    """
    if _extension(path) not in WRITABLE:
        raise InputError(
            f"{path} has the extension {_extension(path)!r}",
            expected="one of " + ", ".join(WRITABLE),
            remedy="use .png if in doubt",
        )


def _trim(image: Float32, alpha: Float32) -> tuple[Float32, Float32]:
    sides = [np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0)]
    if not all(map(len, sides)):
        return image, alpha
    rows, columns = (slice(side[0], side[-1] + 1) for side in sides)
    return image[rows, columns], alpha[rows, columns]


def _extension(path: PathLike) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def _read_bytes(path: PathLike) -> bytes:
    try:
        if data := read_whole(path, most=_MOST_BYTES):
            return data
        raise OSError("it is empty")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise InputError(
            f"{path} can't be read ({brief_cause(error)})",
            expected="an image file",
            remedy="check the name and its permissions",
        ) from error


def _per_channel(image: npt.ArrayLike, change: Callable[[Image.Image], Image.Image]) -> Float32:
    """Transform each channel as a float image; Pillow has no multi-channel float mode."""
    values = np.asarray(image, np.float32)
    channels = values.reshape(*values.shape[:2], -1)
    changed = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(channels[..., index]))))
        for index in range(channels.shape[2])
    ]
    result = np.clip(np.stack(changed, axis=-1), 0, 1)
    return result.reshape(*result.shape[:2], *values.shape[2:])


def _encode(extension: str, pixels: Float32, metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # its creation time, which would make equal images unequal
    if extension in (".tif", ".tiff"):
        tifffile.imwrite(
            file,
            quantize(pixels, np.uint16),
            photometric="rgb",
            extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
            compression="zlib",
            predictor=True,
            description=pack_metadata(metadata),
            metadata=None,
            software=False,
            iccprofile=bytes(profile),
        )
        return file.getvalue()
    image = Image.fromarray(quantize(pixels, np.uint8))
    if extension == ".png":
        image.save(file, "PNG", **metadata_options("PNG", metadata))
        return file.getvalue()
    kind, own = ("WEBP", {"method": 6}) if extension == ".webp" else ("JPEG", {"subsampling": 0})
    options = {"quality": 95, "icc_profile": bytes(profile), **own}
    image.save(file, kind, **options, **metadata_options(kind, metadata))
    return file.getvalue()
