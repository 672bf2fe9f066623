"""Decode image files to upright sRGB arrays.

The bytes of nearly any image format become float32 samples in [0, 1], with gray and CMYK converted
to RGB, and an opacity. This module alone handles the formats that are read, bit depths, color
profiles, orientation tags and the limit on pixels. Unusable bytes raise `InputError`; warnings and
log lines of the decoders are suppressed.
"""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import PathLike, brief_cause

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
"""An array of float32."""

MAX_PIXELS = 178_956_970
"""Largest image: 2 GiB as float32 RGB, and the number at which Pillow itself refuses."""

# An allow list, because some of Pillow's other readers start programs (EPS) or accept any bytes
# (TGA).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_HEIC_FORMAT = "HEIF"
_ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")

HEIC_EXTENSIONS = (".heic", ".heif", ".hif")
"""Extensions of phone images that need the extra `heic` to read."""

# They log every oddity of a damaged file, for which one error message is enough.
_TALKATIVE_LOGGERS = ("tifffile", "PIL.TiffImagePlugin")

# TIFF tags, by their numbers in the specification
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANES, _PROFILE = 258, 262, 274, 284, 34675
_DNG_VERSION = 50706

# Floats slightly outside [0, 1] come from resampling; those far outside have another range.
_MOST_BEYOND = 0.5

FILM_START = (
    r"....ftyp(isom|iso\d|mp4|mmp4|M4V|qt  |avc1|3g|dash|MSNV|F4V)"
    r"|....(moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI "
)
"""Pattern for the first bytes of a film, as Latin-1, to be matched with re.DOTALL."""

_EXPORT = "export it as PNG"
# Files that can't be read: pattern of their first bytes, their kind, and a remedy.
_OTHER_KINDS: tuple[tuple[str, str, str], ...] = (
    (r"\s*(<!doctype html|<html|<head|<body)", "a web page", "save the image it shows instead"),
    (r"\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype svg[^>]*>\s*)*<svg", "an SVG drawing", _EXPORT),
    (r"%PDF", "a PDF document", "export its page as PNG"),
    (r"%!PS", "a PostScript document", _EXPORT),
    (r"8BP[SB]", "a Photoshop document", _EXPORT),
    (r"gimp xcf", "a GIMP document", _EXPORT),
    (r"\x00\x00[\x01\x02]\x00", "an icon", _EXPORT),
    (r"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image", _EXPORT),
    (r"....ftypcrx |FUJIFILMCCD-RAW|II[RU]|IIRO|MMOR|....CIFF", "a camera's raw file", ""),
    (FILM_START, "a video", "extract a frame from it"),
    (r"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "an archive", "extract the image from it"),
)
_HEIC = r"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"
_RAW_REMEDY = "export it from the camera's program as JPEG or as 16-bit TIFF"


class _UnusableError(ValueError):
    """An intact file without a usable image; arguments: what it is, expected, remedy."""


class _Raster(NamedTuple):
    """Output of a decoder: upright samples in [0, 1], still in the file's color space.

    ``color`` is float32[height, width, channels] with 1 (gray), 3 (RGB) or 4 (CMYK) channels.
    """

    color: Float32
    alpha: Float32 | None
    profile: bytes | None


def decode(data: bytes, *, name: PathLike) -> tuple[Float32, Float32 | None]:
    """Decode an image, turn it upright and convert its colors to sRGB.

    Of an animation, the first frame is decoded, and of a file with several pages the largest; both
    are logged. Sixteen bits are kept for TIFF, for PNG other than gray with alpha, and for gray
    images of any format; floats are clipped to [0, 1]. Other formats, and images whose profile is
    not sRGB itself, pass through eight bits, the limit of Pillow and its color management. An
    unusable profile is logged and ignored.

    Args:
      data: the file's content.
      name: the file's name, for messages.

    Returns:
      The colors, float32[height, width, 3], as stored even where the image is transparent; and
      alpha, float32[height, width], or None if every pixel is opaque. Both are in [0, 1].

    Raises:
      InputError: the bytes can't be read as an image, there are too many pixels, floats have
        another range, or the image is only the preview of a camera's raw file.
    """
    with reading(name, data):
        raster, note = _decode(data)
    if note:
        _tell_once(f"{name} {note}.")
    alpha = raster.alpha
    if alpha is not None and np.all(alpha == 1):
        alpha = None
    return _to_srgb(raster, name), alpha


def decode_frame(image: ImageFile.ImageFile, *, name: PathLike) -> tuple[Float32, Float32 | None]:
    """Decode the current frame of an open animation, through eight bits.

    To be called within `reading`.

    Args:
      image: the animation, from `open_lazily`.
      name: the file's name, for messages.

    Returns:
      Colors and alpha, as returned by `decode`.
    """
    image.load()
    mode = "RGBA" if image.has_transparency_data else "RGB"
    color, alpha = _split(np.asarray(image.convert(mode)), 3)
    if alpha is not None and np.all(alpha == 1):
        alpha = None
    return _to_srgb(_Raster(color, alpha, image.info.get("icc_profile")), name), alpha


@functools.lru_cache(maxsize=1024)
def _tell_once(sentence: str) -> None:
    # A file may be read several times.
    logger.info("%s", sentence)


def readable_extensions() -> frozenset[str]:
    """Return the extensions, in lower case, of the formats that `decode` reads."""
    kinds = _find_formats()
    known = Image.registered_extensions()
    return frozenset(extension for extension, kind in known.items() if kind in kinds)


@contextlib.contextmanager
def reading(name: PathLike, data: bytes = b"") -> Iterator[None]:
    """Convert all exceptions of a decoder to InputError, and suppress its warnings.

    Args:
      name: the file's name, for the message.
      data: the file's content, to recognize its kind if it is not an image.
    """
    expected, remedy = "a complete " + ", ".join(_FORMATS), "get it again or export it as PNG"
    try:
        with _silence():
            yield
    except MemoryError:
        raise
    except _UnusableError as error:
        what, expected, remedy = error.args
        raise InputError(f"{name} {what}", expected=expected, remedy=remedy) from error
    except Image.DecompressionBombError as error:
        came, expected = f"{name} has too many pixels", f"at most {MAX_PIXELS:,}"
        raise InputError(came, expected=expected, remedy="scale it down first") from error
    except UnidentifiedImageError as error:
        came = f"{name} is not in a known image format"
        if known := _recognize(data):
            came, remedy = f"{name} is {known[0]}", known[1]
        raise InputError(came, expected=expected, remedy=remedy) from error
    # Decoders meet damage with OSError, SyntaxError, IndexError, struct.error, zlib.error and more.
    except Exception as error:
        came = f"{name} can't be decoded ({brief_cause(error)})"
        raise InputError(came, expected=expected, remedy=remedy) from error


def open_lazily(data: bytes) -> ImageFile.ImageFile:
    """Open an image with Pillow, reading only its header; to be called within `reading`."""
    image = Image.open(io.BytesIO(data), formats=_find_formats())
    _check_num_pixels(*image.size)
    return image


@functools.cache
def _find_formats() -> tuple[str, ...]:
    Image.init()  # AVIF may be missing, depending on how Pillow was built
    try:
        import pi_heif  # The extra `heic`.

        pi_heif.register_heif_opener()
    except ImportError:
        pass
    return tuple(kind for kind in (*_FORMATS, _HEIC_FORMAT) if kind in Image.OPEN)


def _recognize(data: bytes) -> tuple[str, str] | None:
    """Return the kind of a file that can't be read, and a remedy."""
    start = data[:1024].decode("latin-1")
    if re.match(_HEIC, start, re.DOTALL):
        if _HEIC_FORMAT in _find_formats():
            return "a damaged HEIC image", "get it again, or export the image as JPEG"
        return (
            "a HEIC image, which needs an extra to read",
            'install it with pip install "neuart_jax[heic]", or export the image as JPEG',
        )
    for pattern, kind, remedy in _OTHER_KINDS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return kind, remedy or _RAW_REMEDY
    return None


def quantize(values: Float32, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Clip values to [0, 1] and round them to the nearest level of an unsigned integer dtype."""
    return np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    def drop(record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in _TALKATIVE_LOGGERS]
    for each in loggers:
        each.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each in loggers:
            each.removeFilter(drop)


def _check_num_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height}")


def _decode(data: bytes) -> tuple[_Raster, str]:
    """Decode a file with the most precise reader; also return a note on unused frames or pages."""
    page, note = _choose_page(data)
    try:
        image = open_lazily(data)
    except UnidentifiedImageError:
        # Pillow doesn't know TIFF of several float channels.
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _decode_tiff(data, page), note
        raise
    if image.format in _ANIMATED and (count := getattr(image, "n_frames", 1)) > 1:
        note = f"is an animation, and only the first of its {count} frames is used"
    if page:
        image.seek(page)
        _check_num_pixels(*image.size)
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    if max(bits) > 8:
        try:
            return _decode_tiff(data, page), note
        except _UnusableError:
            raise
        except ValueError as error:
            # For LZW, tifffile needs a package that Pillow doesn't. Pillow would silently misread
            # separate planes, 0 as white, and depths other than 16 bits.
            usual = tags.get(_PLANES, 1) == 1 and tags.get(_PHOTOMETRIC) != 0 and set(bits) == {16}
            if "imagecodecs" not in str(error) or not usual:
                raise
    return _decode_pillow(image, data), note


def _choose_page(data: bytes) -> tuple[int, str]:
    """Return which page of a TIFF to decode, and a note for the log.

    A camera's raw file is a TIFF whose pages are previews; the sensor's data is in a sub-page.
    """
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return 0, ""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages: list[Any] = list(file.pages)
            areas = [page.imagewidth * page.imagelength for page in pages]
            below = [
                sub.imagewidth * sub.imagelength
                for page in pages
                if getattr(page, "subifds", None)
                for sub in page.pages
            ]
            is_dng = _DNG_VERSION in file.pages.first.tags
    # The decoders report damage better.
    except Exception:
        return 0, ""
    if is_dng or data[8:10] == b"CR" or max(below, default=0) > max(areas):
        raise _UnusableError(
            "is a camera's raw file, with only a preview in place of an image",
            "a developed image",
            _RAW_REMEDY,
        )
    largest = areas.index(max(areas))
    if len(areas) == 1:
        return 0, ""
    which = "the first" if min(areas) == max(areas) else f"number {largest + 1}, the largest,"
    return largest, f"has {len(areas)} pages, of which {which} is used"


def _decode_pillow(image: ImageFile.ImageFile, data: bytes) -> _Raster:
    arguments = image.tile[0].args if image.tile else None
    rawmode = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    deep = re.fullmatch(r"(RGB|RGBX|RGBA|CMYK);16([BLN])", rawmode)
    image.load()  # first: some of the attributes below are stored at the end of the file
    if deep:
        # Pillow keeps only the high byte of a sample; with the byte order swapped, the low byte.
        # N is the native order, which is little-endian wherever JAX runs.
        kind, order = deep.groups()
        swapped = "L" if order == "B" else "B"
        page = image.tell()
        high, low = (_load_as(data, page, f"{kind};16{each}") for each in (order, swapped))
        samples = high.astype(np.uint16) << 8 | low
    elif image.mode == "I":  # PPM of more than 8 bits, which Pillow scales to 16
        samples = np.asarray(image).astype(np.uint16)
    elif image.mode.startswith("I;16") or image.mode in ("F", "CMYK"):
        samples = np.asarray(image)
    else:
        is_gray = image.mode in ("1", "L", "LA", "La")
        mode = ("L" if is_gray else "RGB") + ("A" if image.has_transparency_data else "")
        samples = np.asarray(image.convert(mode))
    samples = samples.reshape(image.height, image.width, -1)
    num_colors = 4 if image.mode == "CMYK" else 1 if samples.shape[2] < 3 else 3
    # Pillow applies the orientation of a TIFF when it loads it and then drops the tag.
    return _upright(
        *_split(samples, num_colors), _orientation(image), image.info.get("icc_profile")
    )


def _load_as(data: bytes, page: int, rawmode: str) -> npt.NDArray[np.uint8]:
    """Decode with Pillow, but unpack the pixels with another raw mode."""
    with open_lazily(data) as image:
        image.seek(page)
        for index, tile in enumerate(image.tile):
            rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
            image.tile[index] = tile._replace(args=(rawmode, *rest) if rest else rawmode)
        return np.asarray(image)


def _decode_tiff(data: bytes, number: int) -> _Raster:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[number]
        _check_num_pixels(page.imagewidth, page.imagelength)
        extras = [int(extra) for extra in page.extrasamples]
        num_colors = page.samplesperpixel - len(extras)
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        known = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4}.get(kind)
        if known != num_colors or len(extras) > 4 or page.axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"{page.samplesperpixel} channels as {kind} are not supported")
        # Zeros, because tifffile leaves the missing parts of a damaged file uninitialized.
        samples = page.asarray(out=np.zeros(page.shape, page.dtype))
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
    """Scale samples to [0, 1], and separate the colors from an alpha channel after them."""
    if samples.dtype.kind == "f":
        unit = np.clip(samples, 0, 1).astype(np.float32)
        if not np.isfinite(unit).all():
            raise ValueError("some of its values are not numbers")
        low, high = float(samples.min()), float(samples.max())
        if low < -_MOST_BEYOND or high > 1 + _MOST_BEYOND:
            raise _UnusableError(
                f"has floats from {low:.4g} to {high:.4g}",
                "floats from 0, which is black, to 1, which is white",
                "scale the values, or save with 8 or 16 bits",
            )
    else:
        unit = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    return unit[..., :num_colors], unit[..., num_colors] if unit.shape[2] > num_colors else None


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF is no reason to refuse an intact image
        return None


def _upright(
    color: Float32, alpha: Float32 | None, orientation: object, profile: bytes | None
) -> _Raster:
    """Apply an EXIF orientation; undefined values are treated as upright."""

    def turn(array: Float32) -> Float32:
        array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
        array = array[:, ::-1] if orientation in (2, 3, 6, 7) else array
        return np.ascontiguousarray(array[::-1] if orientation in (3, 4, 7, 8) else array)

    return _Raster(turn(color), None if alpha is None else turn(alpha), profile)


def _to_srgb(raster: _Raster, name: PathLike) -> Float32:
    if raster.profile:
        try:
            return _apply_profile(raster.color, raster.profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            logger.warning(
                "%s: the color profile can't be used (%s), so the values are taken as sRGB.",
                name,
                brief_cause(error),
            )
    if raster.color.shape[2] == 4:
        return (1 - raster.color[..., :3]) * (1 - raster.color[..., 3:])
    return _as_rgb(raster.color)


def _apply_profile(color: Float32, data: bytes) -> Float32:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    color = _as_rgb(color) if space == "RGB" else color  # gray images often have an sRGB profile
    mode = {("GRAY", 1): "L", ("RGB", 3): "RGB", ("CMYK", 4): "CMYK"}.get((space, color.shape[2]))
    if mode is None:
        raise ValueError(f"made for {space}, found with {color.shape[2]} channels")
    # With optimization, LittleCMS is ten levels off in the shadows of linear gray (within one for
    # RGB).
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", flags=flags)

    def apply(values: Float32) -> Float32:
        height, width = values.shape[:2]
        image = Image.frombytes(mode, (width, height), quantize(values, np.uint8).tobytes())
        converted = np.asarray(ImageCms.applyTransform(image, transform))
        return converted.astype(np.float32) / np.float32(255)

    if mode != "CMYK":
        # Most profiles are sRGB itself, and conversion would only lose bits: test whether it
        # changes a coarse grid of colors.
        levels = np.linspace(0, 1, 16, dtype=np.float32)  # multiples of 17 / 255
        grid = np.stack(np.meshgrid(*[levels] * color.shape[2]), axis=-1)
        grid = grid.reshape(1, -1, color.shape[2])
        if np.abs(apply(grid) - grid).max() < 1.5 / 255:
            return _as_rgb(color)
    return apply(color)


def _as_rgb(color: Float32) -> Float32:
    return np.repeat(color, 3, axis=2) if color.shape[2] == 1 else color
