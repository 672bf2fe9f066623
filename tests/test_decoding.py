"""Decoded pictures, against Pillow's own conversions, tifffile and literal formulas."""

import base64
import contextlib
import io
import logging
import struct
import zlib

import numpy as np
import pytest
import tifffile
from encoding import encode, over_white, random_array
from PIL import ExifTags, Image, ImageCms, ImageOps

from neuart_jax.config.errors import InputError
from neuart_jax.io import decoding

HEIGHT, WIDTH = 5, 7
ORIENTATION = ExifTags.Base.Orientation


def encode_tiff(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encode_png16(samples):
    """A PNG of 16 bits per sample, which Pillow can't write in color."""
    height, width, channels = samples.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def make_profile(space, tags, *, connection=b"XYZ "):
    """An ICC profile of version 2 with nothing in it but the given tags."""
    data, table = b"", b""
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(
        ">I4sI4s4s4s", 132 + len(table) + len(data), b"", 2 << 24, kind, space, b""
    )
    header = header[:20] + connection + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    white = struct.pack(">3i", *(round(65536 * v) for v in (0.9642, 1.0, 0.8249)))
    header = header.ljust(68, b"\0") + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def curve(gamma):
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


# Adobe RGB (1998): the colorants adapted to D50, and the exponent as the profile stores it.
ADOBE_TO_XYZ = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
ADOBE_GAMMA = 563 / 256
ADOBE_RGB = make_profile(
    b"RGB ",
    {
        name: b"XYZ " + struct.pack(">I3i", 0, *np.rint(65536 * column).astype(int))
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE_TO_XYZ.T, strict=True)
    }
    | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(ADOBE_GAMMA)),
)
LINEAR_GRAY = make_profile(b"GRAY", {b"kTRC": curve(1.0)})
# A press of two levels per ink: every corner of the CMYK cube gets some Lab color.
CMYK_PRESS = make_profile(
    b"CMYK",
    {
        b"A2B0": b"mft1"
        + struct.pack(">I4B9i", 0, 4, 3, 2, 0, *(65536 * np.eye(3, dtype=int)).ravel())
        + bytes(range(256)) * 4
        + random_array(16, 3, seed=5).tobytes()
        + bytes(range(256)) * 3
    },
    connection=b"Lab ",
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# From D50 XYZ, http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html
XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)


def srgb_curve(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decode(data):
    return decoding.decode(data, name="picture")


def check(decoded, color, alpha=None, *, tolerance=1e-6):
    """Compare with colors, wherever they are not wholly transparent, and alpha in [0, 1]."""
    decoded_color, decoded_alpha = decoded
    if color.ndim == 2:
        color = np.stack([color] * 3, axis=-1)
    for array in decoded:
        assert array is None or array.dtype == np.float32 and array.flags.c_contiguous
    assert (decoded_alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_allclose(decoded_alpha, alpha, atol=tolerance)
        decoded_color, color = (over_white(each, alpha) for each in (decoded_color, color))
    np.testing.assert_allclose(decoded_color, color, atol=tolerance)


# Bit depths, modes, alpha


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
    + [("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")],
)
def test_lossless_kinds(kind, options):
    rgb = random_array(HEIGHT, WIDTH, 3)
    data = encode(Image.fromarray(rgb), kind, **options)
    check(decode(data), rgb / 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_and_one_bit(kind):
    gray = random_array(HEIGHT, WIDTH)
    check(decode(encode(Image.fromarray(gray), kind)), gray / 255)
    bits = gray > 127
    check(decode(encode(Image.fromarray(bits), kind)), bits.astype(float))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    rgba = random_array(HEIGHT, WIDTH, 4)
    rgba[0, :2, 3] = 0, 255
    data = encode(Image.fromarray(rgba), kind, **options)
    check(decode(data), rgba[..., :3] / 255, rgba[..., 3] / 255)
    gray_alpha = Image.fromarray(rgba[..., 2:], "LA")
    data = encode(gray_alpha, kind, **options)
    check(decode(data), rgba[..., 2] / 255, rgba[..., 3] / 255)


def test_opaque_alpha_is_none():
    rgba = random_array(HEIGHT, WIDTH, 4)
    rgba[..., 3] = 255
    check(decode(encode(Image.fromarray(rgba), "PNG")), rgba[..., :3] / 255)


@pytest.mark.parametrize(
    ("kind", "transparency"),
    [("PNG", None), ("PNG", 2), ("PNG", bytes([255, 128, 0])), ("GIF", None), ("GIF", 2)],
)
def test_palette(kind, transparency):
    palette = np.array([[255, 0, 0], [10, 200, 30], [0, 0, 250]], np.uint8)
    index = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    alpha = {None: None, 2: np.array([255, 255, 0])}.get(transparency, np.array([255, 128, 0]))
    check(
        decode(encode(image, kind, **options)),
        palette[index] / 255,
        None if alpha is None else alpha[index] / 255,
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_color_key(mode):
    samples = random_array(HEIGHT, WIDTH, 3)
    samples = samples if mode == "RGB" else samples[..., 0]
    key = samples[2, 3].tolist()
    data = encode(
        Image.fromarray(samples), "PNG", transparency=tuple(key) if mode == "RGB" else key
    )
    alpha = np.ones((HEIGHT, WIDTH))
    alpha[2, 3] = 0
    check(decode(data), samples / 255, alpha)


def test_animation_gives_first_frame():
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "lime")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        check(decode(data), np.broadcast_to([1.0, 0, 0], (HEIGHT, WIDTH, 3)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode):
    smooth = np.linspace(0, 255, 16 * 16 * 4).reshape(16, 16, 4).astype(np.uint8)
    image = Image.merge(mode, [Image.fromarray(smooth[..., c]) for c in range(len(mode.strip()))])
    data = encode(image, "JPEG", quality=95)
    if mode == "CMYK":
        assert Image.open(io.BytesIO(data)).info["adobe"]  # which means: stored inverted
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    # Pillow goes from CMYK in whole numbers.
    check(decode(data), reference, tolerance=1.01 / 255 if mode == "CMYK" else 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_without_profile(dtype):
    cmyk = random_array(HEIGHT, WIDTH, 4, dtype=dtype)
    unit = cmyk / np.iinfo(dtype).max
    data = encode_tiff(cmyk, photometric="separated")
    check(decode(data), (1 - unit[..., :3]) * (1 - unit[..., 3:]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    samples = random_array(HEIGHT, WIDTH, channels, dtype=np.uint16)
    unit = samples / 65535
    color = unit[..., 0] if channels < 3 else unit[..., :3]
    alpha = unit[..., -1] if channels in (2, 4) else None
    # Of gray with alpha Pillow gives eight bits.
    check(decode(encode_png16(samples)), color, alpha, tolerance=1 / 255 if channels == 2 else 1e-6)


def test_pgm_of_16_bits():
    gray = random_array(HEIGHT, WIDTH, dtype=np.uint16)
    check(decode(b"P5 7 5 65535\n" + gray.astype(">u2").tobytes()), gray / 65535)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32, np.float64])
def test_deep_tiff(byteorder, compression, dtype):
    integers = random_array(HEIGHT, WIDTH, 4, dtype=np.uint16)
    unit = integers / 65535
    if np.issubdtype(dtype, np.floating):
        samples = unit.astype(dtype)
    else:
        samples = integers.astype(dtype) * (np.iinfo(dtype).max // 65535)
    options = {"compression": compression, "byteorder": byteorder}
    unassociated, associated = ({"extrasamples": [f"{kind}alpha"]} for kind in ("unass", "assoc"))
    rgba, gray_alpha = samples.copy(), samples[..., 2:].copy()

    check(decode(encode_tiff(samples[..., 0], **options)), unit[..., 0])
    check(
        decode(encode_tiff(samples[..., 0], photometric="miniswhite", **options)), 1 - unit[..., 0]
    )
    options["photometric"] = "rgb"
    check(decode(encode_tiff(samples[..., :3], **options)), unit[..., :3])
    planes = np.moveaxis(samples[..., :3], -1, 0)
    check(decode(encode_tiff(planes, planarconfig="separate", **options)), unit[..., :3])
    check(decode(encode_tiff(rgba, **unassociated, **options)), unit[..., :3], unit[..., 3])
    unspecified = {"extrasamples": ["unspecified"]}  # some fourth channel, but no alpha
    check(decode(encode_tiff(rgba, **unspecified, **options)), unit[..., :3])
    premultiplied = rgba.copy()
    premultiplied[..., :3] = rgba[..., :3] * unit[..., 3:]
    check(
        decode(encode_tiff(premultiplied, **associated, **options)),
        unit[..., :3],
        unit[..., 3],
        tolerance=1 / 65535,
    )
    options.update(photometric="minisblack", planarconfig="contig")
    check(decode(encode_tiff(gray_alpha, **unassociated, **options)), unit[..., 2], unit[..., 3])


def test_float_tiff_is_clipped_where_it_was_resampled():
    samples = np.linspace(-0.5, 1.5, HEIGHT * WIDTH * 3, dtype=np.float32)
    samples = samples.reshape(HEIGHT, WIDTH, 3)
    check(decode(encode_tiff(samples, photometric="rgb")), np.clip(samples, 0, 1))


@pytest.mark.parametrize("largest", [8.0, 255.0, 65535.0])
def test_floats_of_another_range_are_refused(largest):
    samples = np.linspace(0, largest, HEIGHT * WIDTH * 3, dtype=np.float32)
    data = encode_tiff(samples.reshape(HEIGHT, WIDTH, 3), photometric="rgb")
    with pytest.raises(InputError, match=r"has floats from 0 to [\d.e+]+; expected floats"):
        decode(data)


def pages_of(*sizes, **options):
    """A TIFF of several pages, each as bright as its number says."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, (height, width) in enumerate(sizes, 1):
            dtype = options.get("dtype", np.uint8)
            level = np.iinfo(dtype).max // 8 * number
            samples = np.full((height, width, 3), level, dtype)
            writer.write(samples, photometric="rgb", metadata=None)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_largest_page_is_the_picture(caplog, dtype):
    data = pages_of((4, 6), (30, 40), (8, 12), dtype=dtype)
    with caplog.at_level(logging.INFO, "neuart_jax"):
        color, _ = decoding.decode(data, name=f"scan {dtype.__name__}")
    assert color.shape == (30, 40, 3)
    np.testing.assert_allclose(color, 2 * (np.iinfo(dtype).max // 8) / np.iinfo(dtype).max)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"scan {dtype.__name__} has 3 pages, of which number 2, the largest, is used."]


def test_of_equal_pages_the_first_is_the_picture(caplog):
    with caplog.at_level(logging.INFO, "neuart_jax"):
        color, _ = decoding.decode(pages_of((8, 9), (8, 9)), name="two pages")
    np.testing.assert_allclose(color, 31 / 255)
    assert "two pages has 2 pages, of which the first is used." in caplog.text


@pytest.mark.parametrize("kind", ["dng", "below"])
def test_a_raw_file_is_not_painted_from_its_preview(kind):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        version = [(50706, "B", 4, (1, 4, 0, 0), True)] if kind == "dng" else None
        preview = np.zeros((12, 16, 3), np.uint8)
        writer.write(preview, photometric="rgb", metadata=None, subifds=1, extratags=version)
        writer.write(np.zeros((300, 400), np.uint16), photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match="is a camera's raw file.*as JPEG or as 16-bit TIFF"):
        decode(file.getvalue())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_say_that_their_first_frame_is_used(caplog, kind):
    frames = [Image.new("RGB", (6, 4), color) for color in ("white", "red", "blue")]
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=40, **options)
    with caplog.at_level(logging.INFO, "neuart_jax"):
        color, _ = decoding.decode(file.getvalue(), name=f"moving {kind}")
    np.testing.assert_array_equal(color, 1)
    assert f"moving {kind} is an animation, and only the first of its 3 frames is" in caplog.text


# 24 x 16 pixels: red rises to the right, green to the bottom, blue falls to the right.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAAGMAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAAD"
    "AIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEA"
    "AAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAa21k"
    "YXQAAABfKAGvCchs0iI97QobB/ve8ubG3BKLpcLuD0Gc3FltcTfLaHLKWDI7pRfne3XXCe7dBJnz3j1zE/ztBVH6/lkF"
    "aTwr9MvLBNFbYztoKTocTcyNSOVg2xPjoMYjIrBqn4A="
)


def test_heic_is_read_with_its_extra():
    pytest.importorskip("pi_heif")
    y, x = np.mgrid[:16, :24]
    expected = np.clip(np.stack([x * 10, y * 15, 255 - x * 10], axis=-1), 0, 255) / 255
    check(decode(HEIC), expected, tolerance=20 / 255)
    assert ".heic" in decoding.readable_extensions()
    with pytest.raises(InputError, match="is a damaged HEIC image"):
        decode(HEIC[:100])


def test_without_it_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr(decoding, "_find_formats", lambda: decoding._FORMATS)
    with pytest.raises(InputError, match=r'is a HEIC image.*pip install "neuart_jax\[heic\]"'):
        decode(HEIC)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"\n <html lang='en'>", "a web page"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="">', "an SVG drawing"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"\0\0\1\0\1\0 \0", "an icon"),
        (b"\0\0\0\x18ftypcrx \0\0", "a camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"\0\0\0\x18ftypisom\0\0", "a video"),
        (b"PK\x03\x04\x14", "an archive"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data, kind):
    with pytest.raises(InputError, match=f"picture is {kind}; expected a complete .*PNG"):
        decode(data)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["gray", "rgb", "rgba", "cmyk"])
def test_16_bit_tiff_without_codec(monkeypatch, byteorder, compression, kind):
    """Pillow steps in for what tifffile can't decode alone, and keeps all the bits."""

    def lack(data, page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    options = {"compression": compression, "byteorder": byteorder, "planarconfig": "contig"}
    options["photometric"] = {"gray": "minisblack", "cmyk": "separated"}.get(kind, "rgb")
    options["extratags"] = [(ORIENTATION, "H", 1, 6, True)]
    if kind == "rgba":
        options["extrasamples"] = ["unassalpha"]
    samples = random_array(HEIGHT, WIDTH, 4, dtype=np.uint16)
    samples = {"gray": samples[..., 0], "rgb": samples[..., :3]}.get(kind, samples)
    data = encode_tiff(samples, **options)
    by_tifffile, _ = decode(data)
    monkeypatch.setattr(decoding, "_decode_tiff", lack)
    by_pillow, _ = decode(data)
    np.testing.assert_array_equal(by_pillow, by_tifffile)
    assert len(np.unique(np.rint(by_pillow * 65535) % 256)) > 20  # low bytes are there
    assert by_pillow.shape == (WIDTH, HEIGHT, 3)


def test_lzw_tiff_of_16_bits():
    gray = random_array(HEIGHT, WIDTH, dtype=np.uint16)
    check(decode(encode(Image.fromarray(gray), "TIFF", compression="tiff_lzw")), gray / 65535)


def test_lab_tiff():
    """Against the definition of CIELAB, whose white is D50."""
    lab = np.array([[[0, 0, 0], [128, 0, 0], [255, 0, 0], [140, 40, -40], [200, -30, 60]]])
    data = encode_tiff(lab.astype(np.uint8), photometric="cielab")  # two's complement
    lightness, a, b = np.moveaxis(lab * [100 / 255, 1, 1], -1, 0)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    check(decode(data), srgb_curve(xyz @ XYZ_TO_SRGB.T), tolerance=2 / 255)


# Orientation and color profiles


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "PNG with 16 bits", "TIFF", "TIFF with 16 bits"])
def test_orientation(kind, orientation):
    rgba = random_array(HEIGHT, WIDTH, 4)
    image = Image.fromarray(rgba)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    deep = rgba.astype(np.uint16) * 257
    if kind == "PNG with 16 bits":
        data = encode_png16(deep)
        # 33 bytes of signature and IHDR come first; the chunk lacks EXIF's own six.
        data = data[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + data[33:]
    elif kind == "TIFF with 16 bits":
        tag = [(ORIENTATION, "H", 1, orientation, True)]
        data = encode_tiff(deep, photometric="rgb", extrasamples=["unassalpha"], extratags=tag)
    else:
        data = encode(image, kind, exif=exif)
    image.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image)) / 255
    check(decode(data), upright[..., :3], upright[..., 3])


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0rubbish"])
def test_damaged_exif_is_ignored(exif):
    rgb = random_array(HEIGHT, WIDTH, 3)
    check(decode(encode(Image.fromarray(rgb), "PNG", exif=exif)), rgb / 255)


def adobe_to_srgb(unit):
    return srgb_curve(unit**ADOBE_GAMMA @ (XYZ_TO_SRGB @ ADOBE_TO_XYZ).T)


@pytest.mark.parametrize("depth", ["8 bits", "16 bits", "gray"])
def test_profile_is_converted(depth):
    samples = random_array(30, 40, 1 if depth == "gray" else 3)
    expected = adobe_to_srgb(np.broadcast_to(samples / 255, (30, 40, 3)))
    assert np.abs(expected - samples / 255).max() > 0.02  # there is something to see
    if depth == "16 bits":
        data = encode_tiff(samples.astype(np.uint16) * 257, photometric="rgb", iccprofile=ADOBE_RGB)
    else:
        image = Image.fromarray(samples.squeeze())
        data = encode(image, "PNG", icc_profile=ADOBE_RGB)
    check(decode(data), expected, tolerance=1.01 / 255)  # LittleCMS is within one level


def test_gray_profile():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = encode(Image.fromarray(gray), "PNG", icc_profile=LINEAR_GRAY)
    check(decode(data), srgb_curve(gray / 255), tolerance=0.51 / 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_profile(kind):
    smooth = np.linspace(0, 255, 16 * 16 * 4).reshape(16, 16, 4).astype(np.uint8)
    data = encode(Image.frombytes("CMYK", (16, 16), smooth.tobytes()), kind, icc_profile=CMYK_PRESS)
    opened = Image.open(io.BytesIO(data))
    profiles = io.BytesIO(CMYK_PRESS), ImageCms.createProfile("sRGB")
    reference = ImageCms.profileToProfile(opened, *profiles, outputMode="RGB")
    assert np.abs(np.asarray(reference, int) - np.asarray(opened.convert("RGB"))).max() > 50
    check(decode(data), np.asarray(reference) / 255)


def test_srgb_profile_changes_nothing():
    samples = random_array(HEIGHT, WIDTH, 3, dtype=np.uint16)
    check(decode(encode_tiff(samples, photometric="rgb", iccprofile=SRGB)), samples / 65535)


@pytest.mark.parametrize(
    "profile",
    [b"rubbish", SRGB[:300], CMYK_PRESS, LINEAR_GRAY],
    ids="rubbish cut CMYK gray".split(),
)
def test_useless_profile_is_reported_and_ignored(caplog, profile):
    rgb = random_array(HEIGHT, WIDTH, 3)
    with caplog.at_level(logging.WARNING):
        check(decode(encode(Image.fromarray(rgb), "PNG", icc_profile=profile)), rgb / 255)
    (record,) = caplog.records
    assert record.name == "neuart_jax.io.decoding"
    assert "color profile can't be used (" in record.getMessage()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_cut_short(kind):
    data = encode(Image.fromarray(random_array(40, 40, 3)), kind)
    with pytest.raises(
        InputError, match=r"picture (can't be decoded|is not in a known image format)"
    ):
        decode(data[: len(data) // 2])


def test_pixel_limit(monkeypatch):
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    message = "has too many pixels; expected at most [0-9,]+; scale it down first"
    with pytest.raises(InputError, match=message):
        decode(b"\x89PNG\r\n\x1a\n" + huge + chunk(b"IDAT", b""))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 15)
    png = encode(Image.new("RGB", (4, 4)), "PNG")
    for data in (png, encode_tiff(np.zeros((4, 4, 3), np.float32), photometric="rgb")):
        with pytest.raises(InputError, match=message):
            decode(data)


def test_pillow_warns_nobody(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    decode(encode(Image.new("RGB", (4, 4)), "PNG"))  # a warning would be an error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_tiff(np.zeros((4, 4), np.int16)), "samples of the kind int16 are not supported"),
        (encode_tiff(np.zeros((4, 4), np.complex64)), "kind complex64 are not supported"),
        (
            encode_tiff(np.zeros((4, 4, 3), np.float32), photometric="cielab"),
            "3 channels as CIELAB are not supported",
        ),
        (encode_tiff(np.full((4, 4), np.nan, np.float32)), "some of its values are not numbers"),
    ],
)
def test_unsupported_samples(data, message):
    with pytest.raises(InputError, match=rf"can't be decoded \(.*{message}\); expected .*; get it"):
        decode(data)


# Damage


def fuzz_files():
    rgb = Image.fromarray(random_array(16, 16, 3))
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return {
        "png": encode(rgb, "PNG", icc_profile=ADOBE_RGB),
        "palette": encode(palette, "PNG", transparency=bytes(range(16))),
        "png16": encode_png16(random_array(8, 8, 4, dtype=np.uint16)),
        "jpeg": encode(rgb, "JPEG", exif=exif),
        "tiff": encode(rgb, "TIFF"),
        "tiff16": encode_tiff(random_array(8, 8, 3, dtype=np.uint16), photometric="rgb"),
        "float": encode_tiff(np.ones((8, 8, 3), np.float32), photometric="rgb", compression="zlib"),
        "gif": encode(palette, "GIF"),
        "webp": encode(rgb, "WEBP"),
    }


@pytest.mark.parametrize("kind", list(fuzz_files()))
def test_damage_gives_a_picture_or_a_sentence(caplog, kind):
    data = fuzz_files()[kind]
    rng = np.random.default_rng(0)
    for case in range(70):
        damaged = bytearray(data)
        if case < 20:
            del damaged[rng.integers(len(data)) :]
        else:
            # Every other time near the front, where formats keep what they are made of.
            damaged[rng.integers(len(data) if case % 2 else 150)] ^= 1 << rng.integers(8)
        try:
            color, alpha = decode(bytes(damaged))
        except InputError:
            continue
        assert color.dtype == np.float32
        assert color.ndim == 3 and color.shape[2] == 3
        assert color.min() >= 0 and color.max() <= 1  # fails for NaN too
        assert alpha is None or alpha.shape == color.shape[:2]
    assert {record.name for record in caplog.records} <= {"neuart_jax.io.decoding"}


def test_only_the_decoders_are_silenced_and_only_meanwhile(caplog):
    tiff = encode_tiff(np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    damaged = tiff[:12] + b"\xff" + tiff[13:]  # the kind of the first tag's value
    tifffile.TiffFile(io.BytesIO(damaged)).close()
    assert [record.name for record in caplog.records] == ["tifffile"]
    caplog.clear()
    with contextlib.suppress(InputError):
        decode(damaged)
    assert not caplog.records
    with decoding.reading("picture"):
        logging.getLogger("another").warning("heard")
    logging.getLogger("tifffile").warning("heard")
    assert [record.name for record in caplog.records] == ["another", "tifffile"]
