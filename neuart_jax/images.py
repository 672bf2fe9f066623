"""Pictures from and to files.

Everywhere in this package an image is ``float32[height, width, 3]``, sRGB in [0, 1], upright and
opaque. This module is the only place that knows of files, bit depths, color profiles, orientation
tags and transparency. Scaling works on the sRGB numbers as they are, in float.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from neuart_jax.errors import InputError

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Float32 = npt.NDArray[np.float32]

# 2 GiB as float32 RGB, and the size above which Pillow refuses by itself.
MAX_PIXELS = 178_956_970

# By name, because some of Pillow's other readers start programs (EPS) or accept any bytes (TGA).
READABLE = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

# TIFF tags, by their numbers in the specification
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANES, _PROFILE = 258, 262, 274, 284, 34675


class Picture(NamedTuple):
    """A picture and what has to be remembered of its file.

    Attributes:
      image: float32[height, width, 3], sRGB in [0, 1], over white wherever it is transparent.
      alpha: float32[height, width] in [0, 1], or None when every pixel is opaque.
      sha256: hexadecimal SHA-256 of the file's bytes.
    """

    image: Float32
    alpha: Float32 | None
    sha256: str


class _Raster(NamedTuple):
    """What a decoder found: upright samples in [0, 1] that still are in the file's color space.

    ``color`` is float32[height, width, channels] with 1 (gray), 3 (RGB) or 4 (CMYK) channels.
    """

    color: Float32
    alpha: Float32 | None
    profile: bytes | None


def load_image(path: PathLike, *, size: int | None = None, enlarge: bool = False) -> Picture:
    """Reads a picture of nearly any kind into the package's one form.

    The orientation tag is applied and an embedded color profile is converted to sRGB. Animations
    give their first frame. Transparent pixels are shown over white, because white is what a network
    should see there and not the color that happens to lie below; ``save_image`` puts ``alpha``
    back. Compositing comes before scaling, which is the same as scaling colors premultiplied by
    alpha, so nothing hidden bleeds into the edges.

    Sixteen bits are kept from PNG, TIFF and gray pictures of any kind; floats are clipped to
    [0, 1]. Other kinds, and pictures whose profile is not sRGB itself, pass through eight bits,
    which is all that Pillow and its color management have.

    Args:
      path: the file.
      size: pixels of the longer side after orientation; the other side keeps the aspect ratio.
        None keeps the picture's own size.
      enlarge: whether a picture smaller than ``size`` is scaled up.

    Returns:
      The picture.

    Raises:
      InputError: when the file can't be read as a picture, or ``size`` is impossible.
    """
    if size is not None and size < 1:
        raise InputError(
            f"size={size} is not positive",
            expected="a whole number of pixels of at least 1",
            remedy="leave it out to keep the picture's own size",
        )
    data = _read_bytes(path)
    with _reading(path):
        raster = _decode(data)
    image, alpha = _to_srgb(raster, path), raster.alpha
    if alpha is not None and np.all(alpha == 1):
        alpha = None
    if alpha is not None:
        image = image * alpha[..., None] + (1 - alpha[..., None])
    height, width = image.shape[:2]
    longest = max(height, width)
    if size is not None and (size < longest or enlarge):
        height, width = (max(1, round(side * size / longest)) for side in (height, width))
        if height * width > MAX_PIXELS:
            raise InputError(
                f"size={size} would make {path} {width} x {height} pixels",
                expected=f"at most {MAX_PIXELS:,} pixels",
                remedy="choose a smaller size",
            )
        image = resize_image(image, height, width)
        alpha = None if alpha is None else resize_image(alpha, height, width)
    return Picture(image, alpha, hashlib.sha256(data).hexdigest())


def resize_image(image: npt.ArrayLike, height: int, width: int) -> Float32:
    """Scales an image to a size with Lanczos' kernel in float, then clips it to [0, 1].

    Args:
      image: float32[height, width] or float32[height, width, channels] in [0, 1].
      height: new height in pixels, at least 1.
      width: new width in pixels, at least 1.

    Returns:
      The same kind of array at its new size.
    """
    return _per_channel(image, lambda im: im.resize((width, height), Image.Resampling.LANCZOS))


def fill_resize(image: npt.ArrayLike, height: int, width: int) -> Float32:
    """Scales an image until it covers a size and cuts off, evenly, what sticks out.

    Args:
      image: float32[height, width] or float32[height, width, channels] in [0, 1].
      height: new height in pixels, at least 1.
      width: new width in pixels, at least 1.

    Returns:
      The same kind of array at its new size.
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
    """Writes an image as what its name says, all of it or nothing.

    PNG has 8 bits; TIFF has 16, compressed without loss; JPEG (4:4:4) and WebP have quality 95.
    Values are clipped to [0, 1] and rounded to the nearest level. The file is marked as sRGB.

    Args:
      path: the file; ``check_output_name`` says which extensions there are.
      image: float32[height, width, 3], sRGB in [0, 1].
      alpha: float32[height, width] in [0, 1], stored beside the colors; JPEG has no such thing and
        shows the image over white.
      metadata: texts to keep inside the file, read back by ``load_metadata``. In PNG they are text
        chunks under their own keys (Latin-1, at most 79 letters), elsewhere JSON in the field
        ImageDescription, of which JPEG and WebP hold 64 kB.

    Raises:
      InputError: when the name's extension is unknown or the file can't be written.
      ValueError: when a value is not finite or the shapes don't fit.
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
            f"{path} can't hold this picture ({_short(error)})",
            expected="a kind of file with room for its size and its metadata",
            remedy="save it as .png or .tif",
        ) from error
    with write_atomically(path) as file:
        file.write(encoded)


def load_metadata(path: PathLike) -> dict[str, str]:
    """Reads back the texts that ``save_image`` put into a file; empty when there are none."""
    data = _read_bytes(path)
    with _reading(path), _open(data) as image:
        if image.format == "PNG":
            return {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
        description = image.getexif().get(ExifTags.Base.ImageDescription, "")
    try:
        found = json.loads(description)
    except (TypeError, ValueError):  # somebody else's description
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def check_output_name(path: PathLike) -> None:
    """Raises InputError unless ``save_image`` knows the name's extension."""
    if _extension(path) not in WRITABLE:
        raise InputError(
            f"{path} has the extension {_extension(path)!r}",
            expected="one of " + ", ".join(WRITABLE),
            remedy="end the name in .png if in doubt",
        )


@contextlib.contextmanager
def write_atomically(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that takes its name only once it is complete and on the disk.

    When the block fails, nothing is left behind and a file that had the name before still stands.

    Args:
      path: the file to make or to replace; a link is followed.

    Yields:
      The open file, under another name in the same folder.

    Raises:
      InputError: for any OSError; other errors of the block pass unchanged.
    """
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        # open() and not tempfile, whose files are private to their owner whatever the umask.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({_short(error)})",
            expected="a name in an existing folder with room and permission to write",
            remedy="make the folder, free some space or choose another name",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _extension(path: PathLike) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def _short(error: BaseException) -> str:
    """The cause in a few words, fit for brackets inside a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:160]


def _read_bytes(path: PathLike) -> bytes:
    try:
        with open(path, "rb") as file:
            if data := file.read():
                return data
        raise OSError("it is empty")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise InputError(
            f"{path} can't be read ({_short(error)})",
            expected="a picture file",
            remedy="check the name and its permissions",
        ) from error


@contextlib.contextmanager
def _reading(path: PathLike) -> Iterator[None]:
    """Turns whatever a decoder raises into an InputError, and keeps its warnings in."""
    expected, remedy = "a complete " + ", ".join(READABLE), "get it again or export it as PNG"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        came, expected = f"{path} has too many pixels", f"at most {MAX_PIXELS:,}"
        raise InputError(came, expected=expected, remedy="scale it down first") from error
    except UnidentifiedImageError as error:
        came = f"{path} is not a picture that can be recognized"
        raise InputError(came, expected=expected, remedy=remedy) from error
    # Decoders meet damage with OSError, SyntaxError, IndexError, struct.error, zlib.error and more.
    except Exception as error:
        came = f"{path} can't be decoded ({_short(error)})"
        raise InputError(came, expected=expected, remedy=remedy) from error


def _check_num_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height}")


def _open(data: bytes) -> ImageFile.ImageFile:
    Image.init()  # AVIF is there or not, depending on how Pillow was built
    formats = [kind for kind in READABLE if kind in Image.OPEN]
    image = Image.open(io.BytesIO(data), formats=formats)
    _check_num_pixels(*image.size)
    return image


def _decode(data: bytes) -> _Raster:
    """Decodes a file with the reader that keeps most of it."""
    try:
        image = _open(data)
    except UnidentifiedImageError:
        if data[:2] in (b"II", b"MM"):  # Pillow doesn't know TIFF of several float channels
            return _decode_tiff(data)
        raise
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    if max(bits) > 8:
        try:
            return _decode_tiff(data)
        except ValueError as error:
            # For LZW tifffile needs a package that Pillow doesn't. What Pillow would get wrong
            # without saying so: separate planes, 0 as white, and scales other than 16 bits.
            usual = tags.get(_PLANES, 1) == 1 and tags.get(_PHOTOMETRIC) != 0 and set(bits) == {16}
            if "imagecodecs" not in str(error) or not usual:
                raise
    return _decode_pillow(image, data)


def _decode_pillow(image: ImageFile.ImageFile, data: bytes) -> _Raster:
    arguments = image.tile[0].args if image.tile else None
    rawmode = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    deep = re.fullmatch(r"(RGB|RGBX|RGBA|CMYK);16([BLN])", rawmode)
    image.load()  # before any question about it: some answers stand at the end of a file
    transparent = image.has_transparency_data
    if rawmode == "LA;16B":
        # Pillow keeps the high bytes only, but taken for RGBA a pixel gives all its four bytes.
        samples = np.ascontiguousarray(_load_as(data, "RGBA")).view(">u2")
    elif deep:
        # Pillow keeps the high byte of a sample, or the low one when told the wrong byte order.
        kind, order = deep.groups()
        swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
        high, low = (_load_as(data, f"{kind};16{each}") for each in (order, swapped))
        samples = high.astype(np.uint16) << 8 | low
    elif image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "F", "CMYK"):
        samples = np.asarray(image)
    elif image.mode == "I":  # PPM of more than 8 bits, which Pillow scales to 16
        samples = np.asarray(image).clip(0, 65535).astype(np.uint16)
    elif image.mode in ("1", "L", "LA", "La"):
        samples = np.asarray(image.convert("LA" if transparent else "L"))
    elif image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        samples = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    else:
        raise ValueError(f"the color mode {image.mode} is not supported")
    samples = samples.reshape(image.height, image.width, -1)
    num_colors = 4 if image.mode == "CMYK" else 1 if samples.shape[2] < 3 else 3
    color, alpha = _split(samples, num_colors)
    if samples.dtype != np.uint8 and "transparency" in image.info:
        # One color that stands for nothing; up to 8 bits convert() has seen to it.
        alpha = np.any(samples != image.info["transparency"], axis=-1).astype(np.float32)
    # Pillow turns TIFF upright as it loads it and then drops the tag.
    return _upright(color, alpha, _orientation(image), image.info.get("icc_profile"))


def _load_as(data: bytes, rawmode: str) -> npt.NDArray[np.uint8]:
    """Decodes with Pillow, but unpacks the pixels as if they were laid out like ``rawmode``."""
    with _open(data) as image:
        for index, tile in enumerate(image.tile):
            rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
            image.tile[index] = tile._replace(args=(rawmode, *rest) if rest else rawmode)
        return np.asarray(image)


def _decode_tiff(data: bytes) -> _Raster:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        _check_num_pixels(page.imagewidth, page.imagelength)
        extras = [int(extra) for extra in page.extrasamples]
        num_colors = page.samplesperpixel - len(extras)
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        known = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4}.get(kind)
        if known != num_colors or len(extras) > 4 or page.axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"{page.samplesperpixel} channels as {kind} are not supported")
        samples = page.asarray()
        if samples.shape != page.shape:
            raise ValueError("its pixels are missing")
        tags = {code: page.tags.valueof(code) for code in (_ORIENTATION, _PROFILE)}
    if samples.dtype.kind not in "uf":
        raise ValueError(f"samples of the kind {samples.dtype} are not supported")
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    color, alpha = _split(samples.reshape(page.imagelength, page.imagewidth, -1), num_colors)
    if extras[:1] not in ([1], [2]):  # not an alpha
        alpha = None
    if alpha is not None and extras[0] == 1:  # premultiplied
        color = np.clip(color / np.maximum(alpha, 1e-6)[..., None], 0, 1)
    return _upright(1 - color if kind == "MINISWHITE" else color, alpha, *tags.values())


def _split(samples: npt.NDArray[Any], num_colors: int) -> tuple[Float32, Float32 | None]:
    """Scales samples to [0, 1] and parts the colors from the channel after them."""
    if samples.dtype.kind == "f":
        unit = np.clip(samples, 0, 1).astype(np.float32)
        if not np.isfinite(unit).all():
            raise ValueError("some of its values are not numbers")
    else:
        unit = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    return unit[..., :num_colors], unit[..., num_colors] if unit.shape[2] > num_colors else None


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF is no reason to refuse a sound picture
        return None


def _upright(
    color: Float32, alpha: Float32 | None, orientation: object, profile: bytes | None
) -> _Raster:
    """Applies an EXIF orientation; values that EXIF doesn't define mean upright."""

    def turn(array: Float32) -> Float32:
        array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
        array = array[:, ::-1] if orientation in (2, 3, 6, 7) else array
        return np.ascontiguousarray(array[::-1] if orientation in (3, 4, 7, 8) else array)

    return _Raster(turn(color), None if alpha is None else turn(alpha), profile)


def _to_srgb(raster: _Raster, path: PathLike) -> Float32:
    if raster.profile:
        try:
            return _apply_profile(raster.color, raster.profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            logger.warning(
                "%s: its color profile can't be used (%s), so its numbers are taken for sRGB.",
                path,
                _short(error),
            )
    if raster.color.shape[2] == 4:
        return (1 - raster.color[..., :3]) * (1 - raster.color[..., 3:])
    return _as_rgb(raster.color)


def _apply_profile(color: Float32, data: bytes) -> Float32:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    color = _as_rgb(color) if space == "RGB" else color  # gray pictures often come with sRGB
    mode = {("GRAY", 1): "L", ("RGB", 3): "RGB", ("CMYK", 4): "CMYK"}.get((space, color.shape[2]))
    if mode is None:
        raise ValueError(f"made for {space}, found with {color.shape[2]} channels")
    # Optimized, LittleCMS is ten levels off in the shadows of linear gray (but within one in RGB).
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", flags=flags)

    def apply(values: Float32) -> Float32:
        height, width = values.shape[:2]
        image = Image.frombytes(mode, (width, height), _quantize(values, np.uint8).tobytes())
        converted = np.asarray(ImageCms.applyTransform(image, transform))
        return converted.astype(np.float32) / np.float32(255)

    if mode != "CMYK":
        # The usual profile is sRGB itself, and to convert that would only cost bits: try it on a
        # coarse grid of colors.
        levels = np.linspace(0, 1, 16, dtype=np.float32)  # multiples of 17 / 255
        grid = np.stack(np.meshgrid(*[levels] * color.shape[2]), axis=-1)
        grid = grid.reshape(1, -1, color.shape[2])
        if np.abs(apply(grid) - grid).max() < 1.5 / 255:
            return _as_rgb(color)
    return apply(color)


def _as_rgb(color: Float32) -> Float32:
    return np.repeat(color, 3, axis=2) if color.shape[2] == 1 else color


def _per_channel(image: npt.ArrayLike, change: Callable[[Image.Image], Image.Image]) -> Float32:
    """Changes each channel as a float picture; Pillow knows none of several float channels."""
    values = np.asarray(image, np.float32)
    channels = values.reshape(*values.shape[:2], -1)
    changed = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(channels[..., index]))))
        for index in range(channels.shape[2])
    ]
    result = np.clip(np.stack(changed, axis=-1), 0, 1)
    return result.reshape(*result.shape[:2], *values.shape[2:])


def _quantize(values: Float32, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)


def _encode(extension: str, pixels: Float32, metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the time it was made, which would make equal pictures unequal
    # In JSON everything is ASCII, the only text that ImageDescription may hold.
    description = json.dumps(metadata) if metadata else ""
    if extension in (".tif", ".tiff"):
        tifffile.imwrite(
            file,
            _quantize(pixels, np.uint16),
            photometric="rgb",
            extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
            compression="zlib",
            predictor=True,
            description=description,
            metadata=None,
            software=False,
            iccprofile=bytes(profile),
        )
        return file.getvalue()
    image = Image.fromarray(_quantize(pixels, np.uint8))
    if extension == ".png":
        chunks = PngInfo()
        chunks.add(b"sRGB", b"\0")
        for key, value in metadata.items():
            chunks.add_itxt(key, value)
        image.save(file, "PNG", pnginfo=chunks)
        return file.getvalue()
    options: dict[str, Any] = {"quality": 95, "icc_profile": bytes(profile)}
    if description:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.ImageDescription] = description
    if extension == ".webp":
        image.save(file, "WEBP", method=6, **options)
    else:
        image.save(file, "JPEG", subsampling=0, **options)
    return file.getvalue()
