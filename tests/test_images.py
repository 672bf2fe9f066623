"""Pictures from and to files, against Pillow's own conversions, tifffile and literal formulas."""

import errno
import hashlib
import io
import logging
import os
import stat
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin

from neuart_jax import images
from neuart_jax.errors import InputError

HEIGHT, WIDTH = 5, 7
ORIENTATION, DESCRIPTION = ExifTags.Base.Orientation, ExifTags.Base.ImageDescription


def random_array(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def over_white(color, alpha):
    return color * alpha[..., None] + 1 - alpha[..., None]


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_tiff(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encode_png16(samples, *, transparent=None):
    """A PNG of 16 bits per sample, which Pillow can't write in color."""
    height, width, channels = samples.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    key = b"" if transparent is None else chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
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


@pytest.fixture
def load(tmp_path):
    """Loads a picture from its bytes."""

    def load_bytes(data, **options):
        path = tmp_path / "picture"  # content decides, not the name
        path.write_bytes(data)
        return images.load_image(path, **options)

    return load_bytes


def check(picture, color, alpha=None, *, tolerance=1e-6):
    """Compares with colors (not yet over white) and alpha in [0, 1]."""
    if color.ndim == 2:
        color = np.stack([color] * 3, axis=-1)
    expected = color if alpha is None else over_white(color, alpha)
    assert picture.image.dtype == np.float32
    assert picture.image.flags.c_contiguous
    np.testing.assert_allclose(picture.image, expected, atol=tolerance)
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        assert picture.alpha.dtype == np.float32
        np.testing.assert_allclose(picture.alpha, alpha, atol=tolerance)


# Reading: bit depths, modes, alpha


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
    + [("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")],
)
def test_lossless_kinds(load, kind, options):
    rgb = random_array(HEIGHT, WIDTH, 3)
    data = encode(Image.fromarray(rgb), kind, **options)
    picture = load(data)
    check(picture, rgb / 255)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_and_one_bit(load, kind):
    gray = random_array(HEIGHT, WIDTH)
    check(load(encode(Image.fromarray(gray), kind)), gray / 255)
    bits = gray > 127
    check(load(encode(Image.fromarray(bits), kind)), bits.astype(float))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha(load, kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    rgba = random_array(HEIGHT, WIDTH, 4)
    rgba[0, :2, 3] = 0, 255
    data = encode(Image.fromarray(rgba), kind, **options)
    check(load(data), rgba[..., :3] / 255, rgba[..., 3] / 255)
    gray_alpha = Image.fromarray(rgba[..., 2:], "LA")
    data = encode(gray_alpha, kind, **options)
    check(load(data), rgba[..., 2] / 255, rgba[..., 3] / 255)


def test_opaque_alpha_is_none(load):
    rgba = random_array(HEIGHT, WIDTH, 4)
    rgba[..., 3] = 255
    check(load(encode(Image.fromarray(rgba), "PNG")), rgba[..., :3] / 255)


@pytest.mark.parametrize(
    ("kind", "transparency"),
    [("PNG", None), ("PNG", 2), ("PNG", bytes([255, 128, 0])), ("GIF", None), ("GIF", 2)],
)
def test_palette(load, kind, transparency):
    palette = np.array([[255, 0, 0], [10, 200, 30], [0, 0, 250]], np.uint8)
    index = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    alpha = {None: None, 2: np.array([255, 255, 0])}.get(transparency, np.array([255, 128, 0]))
    picture = load(encode(image, kind, **options))
    check(picture, palette[index] / 255, None if alpha is None else alpha[index] / 255)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_color_key(load, mode):
    samples = random_array(HEIGHT, WIDTH, 3)
    samples = samples if mode == "RGB" else samples[..., 0]
    key = samples[2, 3].tolist()
    data = encode(
        Image.fromarray(samples), "PNG", transparency=tuple(key) if mode == "RGB" else key
    )
    alpha = np.ones((HEIGHT, WIDTH))
    alpha[2, 3] = 0
    check(load(data), samples / 255, alpha)


def test_animation_gives_first_frame(load):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "lime")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        check(load(data), np.broadcast_to([1.0, 0, 0], (HEIGHT, WIDTH, 3)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(load, mode):
    smooth = np.linspace(0, 255, 16 * 16 * 4).reshape(16, 16, 4).astype(np.uint8)
    image = Image.merge(mode, [Image.fromarray(smooth[..., c]) for c in range(len(mode.strip()))])
    data = encode(image, "JPEG", quality=95)
    if mode == "CMYK":
        assert Image.open(io.BytesIO(data)).info["adobe"]  # which means: stored inverted
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    # Pillow goes from CMYK in whole numbers.
    check(load(data), reference, tolerance=1.01 / 255 if mode == "CMYK" else 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_without_profile(load, dtype):
    cmyk = random_array(HEIGHT, WIDTH, 4, dtype=dtype)
    unit = cmyk / np.iinfo(dtype).max
    data = encode_tiff(cmyk, photometric="separated")
    check(load(data), (1 - unit[..., :3]) * (1 - unit[..., 3:]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(load, channels):
    samples = random_array(HEIGHT, WIDTH, channels, dtype=np.uint16)
    unit = samples / 65535
    color = unit[..., 0] if channels < 3 else unit[..., :3]
    check(load(encode_png16(samples)), color, unit[..., -1] if channels in (2, 4) else None)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_with_color_key(load, channels):
    samples = random_array(HEIGHT, WIDTH, channels, dtype=np.uint16)
    samples[4, 4] = samples[2, 3]
    samples[4, 4, -1] ^= 1  # differs in the lowest bit only, so it is not the key
    alpha = np.ones((HEIGHT, WIDTH))
    alpha[2, 3] = 0
    picture = load(encode_png16(samples, transparent=samples[2, 3]))
    check(picture, np.broadcast_to(samples / 65535, (HEIGHT, WIDTH, 3)), alpha)


def test_pgm_of_16_bits(load):
    gray = random_array(HEIGHT, WIDTH, dtype=np.uint16)
    check(load(b"P5 7 5 65535\n" + gray.astype(">u2").tobytes()), gray / 65535)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32, np.float64])
def test_deep_tiff(load, byteorder, compression, dtype):
    integers = random_array(HEIGHT, WIDTH, 4, dtype=np.uint16)
    unit = integers / 65535
    if np.issubdtype(dtype, np.floating):
        samples = unit.astype(dtype)
    else:
        samples = integers.astype(dtype) * (np.iinfo(dtype).max // 65535)
    options = {"compression": compression, "byteorder": byteorder}
    unassociated, associated = ({"extrasamples": [f"{kind}alpha"]} for kind in ("unass", "assoc"))
    rgba, gray_alpha = samples.copy(), samples[..., 2:].copy()

    check(load(encode_tiff(samples[..., 0], **options)), unit[..., 0])
    check(load(encode_tiff(samples[..., 0], photometric="miniswhite", **options)), 1 - unit[..., 0])
    options["photometric"] = "rgb"
    check(load(encode_tiff(samples[..., :3], **options)), unit[..., :3])
    planes = np.moveaxis(samples[..., :3], -1, 0)
    check(load(encode_tiff(planes, planarconfig="separate", **options)), unit[..., :3])
    check(load(encode_tiff(rgba, **unassociated, **options)), unit[..., :3], unit[..., 3])
    unspecified = {"extrasamples": ["unspecified"]}  # some fourth channel, but no alpha
    check(load(encode_tiff(rgba, **unspecified, **options)), unit[..., :3])
    premultiplied = rgba.copy()
    premultiplied[..., :3] = rgba[..., :3] * unit[..., 3:]
    picture = load(encode_tiff(premultiplied, **associated, **options))
    check(picture, unit[..., :3], unit[..., 3], tolerance=1 / 65535)
    options.update(photometric="minisblack", planarconfig="contig")
    picture = load(encode_tiff(gray_alpha, **unassociated, **options))
    check(picture, unit[..., 2], unit[..., 3])


def test_float_tiff_is_clipped(load):
    samples = np.linspace(-1, 2, HEIGHT * WIDTH * 3, dtype=np.float32).reshape(HEIGHT, WIDTH, 3)
    check(load(encode_tiff(samples, photometric="rgb")), np.clip(samples, 0, 1))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["gray", "rgb", "rgba", "cmyk"])
def test_16_bit_tiff_without_codec(load, monkeypatch, byteorder, compression, kind):
    """Pillow steps in for what tifffile can't decode alone, and keeps all the bits."""

    def lack(data):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    options = {"compression": compression, "byteorder": byteorder, "planarconfig": "contig"}
    options["photometric"] = {"gray": "minisblack", "cmyk": "separated"}.get(kind, "rgb")
    options["extratags"] = [(ORIENTATION, "H", 1, 6, True)]
    if kind == "rgba":
        options["extrasamples"] = ["unassalpha"]
    samples = random_array(HEIGHT, WIDTH, 4, dtype=np.uint16)
    samples = {"gray": samples[..., 0], "rgb": samples[..., :3]}.get(kind, samples)
    data = encode_tiff(samples, **options)
    by_tifffile = load(data)
    monkeypatch.setattr(images, "_decode_tiff", lack)
    by_pillow = load(data)
    np.testing.assert_array_equal(by_pillow.image, by_tifffile.image)
    assert len(np.unique(np.rint(by_pillow.image * 65535) % 256)) > 20  # low bytes are there
    assert by_pillow.image.shape == (WIDTH, HEIGHT, 3)


def test_lzw_tiff_of_16_bits(load):
    gray = random_array(HEIGHT, WIDTH, dtype=np.uint16)
    check(load(encode(Image.fromarray(gray), "TIFF", compression="tiff_lzw")), gray / 65535)


# Reading: orientation and color profiles


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "PNG with 16 bits", "TIFF", "TIFF with 16 bits"])
def test_orientation(load, kind, orientation):
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
    check(load(data), upright[..., :3], upright[..., 3])


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0rubbish"])
def test_damaged_exif_is_ignored(load, exif):
    rgb = random_array(HEIGHT, WIDTH, 3)
    check(load(encode(Image.fromarray(rgb), "PNG", exif=exif)), rgb / 255)


def adobe_to_srgb(unit):
    return srgb_curve(unit**ADOBE_GAMMA @ (XYZ_TO_SRGB @ ADOBE_TO_XYZ).T)


@pytest.mark.parametrize("depth", ["8 bits", "16 bits", "gray"])
def test_profile_is_converted(load, depth):
    samples = random_array(30, 40, 1 if depth == "gray" else 3)
    expected = adobe_to_srgb(np.broadcast_to(samples / 255, (30, 40, 3)))
    assert np.abs(expected - samples / 255).max() > 0.02  # there is something to see
    if depth == "16 bits":
        data = encode_tiff(samples.astype(np.uint16) * 257, photometric="rgb", iccprofile=ADOBE_RGB)
    else:
        image = Image.fromarray(samples.squeeze())
        data = encode(image, "PNG", icc_profile=ADOBE_RGB)
    check(load(data), expected, tolerance=1.01 / 255)  # LittleCMS is within one level


def test_gray_profile(load):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = encode(Image.fromarray(gray), "PNG", icc_profile=LINEAR_GRAY)
    check(load(data), srgb_curve(gray / 255), tolerance=0.51 / 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_profile(load, kind):
    smooth = np.linspace(0, 255, 16 * 16 * 4).reshape(16, 16, 4).astype(np.uint8)
    data = encode(Image.frombytes("CMYK", (16, 16), smooth.tobytes()), kind, icc_profile=CMYK_PRESS)
    opened = Image.open(io.BytesIO(data))
    profiles = io.BytesIO(CMYK_PRESS), ImageCms.createProfile("sRGB")
    reference = ImageCms.profileToProfile(opened, *profiles, outputMode="RGB")
    assert np.abs(np.asarray(reference, int) - np.asarray(opened.convert("RGB"))).max() > 50
    check(load(data), np.asarray(reference) / 255)


def test_srgb_profile_changes_nothing(load):
    samples = random_array(HEIGHT, WIDTH, 3, dtype=np.uint16)
    check(load(encode_tiff(samples, photometric="rgb", iccprofile=SRGB)), samples / 65535)


@pytest.mark.parametrize(
    "profile",
    [b"rubbish", SRGB[:300], CMYK_PRESS, LINEAR_GRAY],
    ids="rubbish cut CMYK gray".split(),
)
def test_useless_profile_is_reported_and_ignored(load, caplog, profile):
    rgb = random_array(HEIGHT, WIDTH, 3)
    with caplog.at_level(logging.WARNING):
        picture = load(encode(Image.fromarray(rgb), "PNG", icc_profile=profile))
    check(picture, rgb / 255)
    (record,) = caplog.records
    assert record.name == "neuart_jax.images"
    assert "color profile can't be used (" in record.getMessage()


# Size


@pytest.mark.parametrize(
    ("shape", "size", "enlarge", "expected"),
    [
        ((30, 40), None, False, (30, 40)),
        ((30, 40), 20, False, (15, 20)),
        ((40, 30), 20, False, (20, 15)),
        ((30, 40), 21, False, (16, 21)),  # 15.75
        ((30, 40), 41, False, (30, 40)),
        ((30, 40), 40, True, (30, 40)),
        ((30, 40), 80, True, (60, 80)),
        ((1, 90), 10, False, (1, 10)),
        ((2, 90), 10, False, (1, 10)),
        ((30, 40), 1, False, (1, 1)),
    ],
)
def test_size(load, shape, size, enlarge, expected):
    rgba = random_array(*shape, 4)
    picture = load(encode(Image.fromarray(rgba), "PNG"), size=size, enlarge=enlarge)
    assert picture.image.shape == (*expected, 3)
    assert picture.alpha.shape == expected


def test_size_counts_after_orientation(load):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encode(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert load(data, size=20).image.shape == (20, 10, 3)


def lanczos(length, new_length):
    """The matrix that resamples a line, by the formula: sinc(x) sinc(x / 3), normalized."""
    scale = length / new_length
    centers = (np.arange(new_length) + 0.5) * scale
    x = (np.arange(length) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("new_shape", [(7, 11), (20, 31), (45, 50), (20, 13)])
def test_resize_is_lanczos_in_float(new_shape):
    image = np.random.default_rng(0).random((20, 31, 3))
    down, across = lanczos(20, new_shape[0]), lanczos(31, new_shape[1])
    expected = np.clip(np.einsum("ij,jkc,lk->ilc", down, image, across), 0, 1)
    resized = images.resize_image(image, *new_shape)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-5)
    np.testing.assert_array_equal(images.resize_image(image[..., 0], *new_shape), resized[..., 0])


def test_scaling_keeps_16_bits(load):
    samples = random_array(20, 31, 3, dtype=np.uint16)
    picture = load(encode_png16(samples), size=11)
    np.testing.assert_allclose(
        picture.image, images.resize_image(samples / 65535, 7, 11), atol=1e-6
    )


def test_scaling_with_alpha_is_premultiplied(load):
    rgba = random_array(20, 30, 4)
    rgba[:10, :, 3] = 0
    image = Image.fromarray(rgba)
    small = image.convert("RGBa").resize((15, 10), Image.Resampling.LANCZOS).convert("RGBA")
    reference = np.asarray(small) / 255
    picture = load(encode(image, "PNG"), size=15)
    # In 8 bits Pillow clips the overshoot of colors and alpha apart.
    expected = over_white(reference[..., :3], reference[..., 3])
    np.testing.assert_allclose(picture.alpha, reference[..., 3], atol=1 / 255)
    assert np.abs(picture.image - expected).mean() < 2 / 255


def test_hidden_colors_do_not_bleed(load):
    rgba = random_array(20, 30, 4)
    rgba[:10, :, 3] = 0
    other = rgba.copy()
    other[:10, :, :3] = random_array(10, 30, 3, seed=1)
    one, two = (load(encode(Image.fromarray(each), "PNG"), size=13) for each in (rgba, other))
    np.testing.assert_array_equal(one.image, two.image)


def test_fill_resize_crops_the_center():
    image = np.random.default_rng(0).random((40, 21, 3), np.float32)
    np.testing.assert_allclose(images.fill_resize(image, 20, 21), image[10:30], atol=1e-6)
    turned = np.swapaxes(image, 0, 1)
    np.testing.assert_allclose(images.fill_resize(turned, 21, 20), turned[:, 10:30], atol=1e-6)
    filled = images.fill_resize(image, 15, 33)
    assert filled.shape == (15, 33, 3)
    flipped = images.fill_resize(image[::-1, ::-1], 15, 33)
    np.testing.assert_allclose(flipped[::-1, ::-1], filled, atol=1e-5)


# Writing

EXTENSIONS = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]


@pytest.mark.parametrize(
    ("extension", "bound"), [(".png", 1 / 510), (".tif", 1 / 131070), (".TIFF", 1 / 131070)]
)
@pytest.mark.parametrize("shape", [(9, 14), (1, 1), (1, 5), (5, 1), (3, 4)])
def test_lossless_round_trip(tmp_path, extension, bound, shape):
    rng = np.random.default_rng(0)
    image = rng.random((*shape, 3), np.float32)
    alpha = rng.random(shape, np.float32)
    path = tmp_path / f"a{extension}"
    images.save_image(path, image)
    picture = images.load_image(path)
    assert picture.alpha is None
    np.testing.assert_allclose(picture.image, image, rtol=0, atol=bound + 1e-7)
    images.save_image(path, image, alpha=alpha)
    picture = images.load_image(path)
    np.testing.assert_allclose(picture.alpha, alpha, rtol=0, atol=bound + 1e-7)
    expected = over_white(image, alpha)
    np.testing.assert_allclose(picture.image, expected, rtol=0, atol=2 * bound + 1e-7)


@pytest.mark.parametrize(("extension", "top"), [(".png", 255), (".tif", 65535)])
def test_values_are_rounded_and_clipped(tmp_path, extension, top):
    levels = np.array([-5, -0.4, 0.4, 0.6, 1.4, 1.6, 99.51, top - 0.6, top - 0.255, top + 40])
    stored = [0, 0, 0, 1, 1, 2, 100, top - 1, top, top]
    path = tmp_path / f"a{extension}"
    images.save_image(path, np.broadcast_to(levels[None, :, None] / top, (1, len(levels), 3)))
    read = tifffile.imread(path) if extension == ".tif" else np.asarray(Image.open(path))
    assert read[0, :, 1].tolist() == stored


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_lossy_round_trip(tmp_path, extension):
    smooth = images.resize_image(np.random.default_rng(0).random((4, 5, 3)), 32, 40)
    images.save_image(tmp_path / f"a{extension}", smooth)
    assert np.abs(images.load_image(tmp_path / f"a{extension}").image - smooth).mean() < 0.02


def test_jpeg_keeps_full_color_resolution(tmp_path):
    images.save_image(tmp_path / "a.jpg", np.zeros((16, 16, 3)))
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0


def test_alpha_in_lossy_files(tmp_path):
    image, alpha = np.zeros((16, 16, 3)), np.full((16, 16), 0.75)
    for name in ("a.jpg", "a.webp"):
        images.save_image(tmp_path / name, image, alpha=alpha)
    jpeg, webp = (images.load_image(tmp_path / name) for name in ("a.jpg", "a.webp"))
    np.testing.assert_allclose(jpeg.image, 0.25, atol=1.5 / 255)
    assert jpeg.alpha is None
    np.testing.assert_allclose(webp.alpha, 0.75, atol=0.5 / 255)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_files_say_that_they_are_srgb(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    images.save_image(path, np.zeros((4, 4, 3)))
    with Image.open(path) as image:
        if extension == ".png":
            assert b"sRGB\0" in path.read_bytes()
            return
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_metadata_round_trip(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    metadata = {"Comment": 'Köln "東京" 🎨\nline two', "config": '{"size": 512}', "empty": ""}
    images.save_image(path, np.zeros((4, 4, 3)), metadata=metadata)
    assert images.load_metadata(path) == metadata
    images.save_image(path, np.zeros((4, 4, 3)))
    assert images.load_metadata(path) == {}


def test_foreign_description_is_no_metadata(tmp_path):
    exif = Image.Exif()
    for text in ("a camera", "[1, 2]"):
        exif[DESCRIPTION] = text
        Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
        assert images.load_metadata(tmp_path / "a.jpg") == {}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_equal_pictures_give_equal_files(tmp_path, monkeypatch, extension):
    image = np.random.default_rng(0).random((4, 4, 3))
    images.save_image(tmp_path / f"a{extension}", image)
    create = ImageCms.createProfile

    def create_later(name):
        data = bytearray(ImageCms.ImageCmsProfile(create(name)).tobytes())
        data[24:36] = struct.pack(">6H", 2001, 2, 3, 4, 5, 6)
        return ImageCms.ImageCmsProfile(io.BytesIO(data)).profile

    monkeypatch.setattr(ImageCms, "createProfile", create_later)
    images.save_image(tmp_path / f"b{extension}", image)
    first, second = ((tmp_path / f"{name}{extension}").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("image", "alpha", "message"),
    [
        (np.full((2, 2, 3), np.nan), None, "image has values that are not finite"),
        (np.full((2, 2, 3), np.inf), None, "image has values that are not finite"),
        (np.zeros((2, 2, 3)), np.full((2, 2), np.nan), "alpha has values that are not finite"),
        (np.zeros((2, 2)), None, r"shape \(2, 2\), expected \(height, width, 3\)"),
        (np.zeros((2, 2, 4)), None, r"shape \(2, 2, 4\), expected"),
        (np.zeros((2, 2, 3)), np.zeros((2, 3)), r"alpha \(2, 3\) doesn't fit"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, image, alpha, message):
    with pytest.raises(ValueError, match=message):
        images.save_image(tmp_path / "a.png", image, alpha=alpha)
    assert not os.listdir(tmp_path)


# Writing all or nothing


def test_failed_encoder_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, *arguments, **options):
        file.write(b"half a picture")
        raise OSError("broken data stream")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match=r"a.png can't hold this picture \(broken data stream\);"):
        images.save_image(path, np.zeros((2, 2, 3)))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_failed_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    raised = error("a", expected="b", remedy="c") if error is InputError else error("a")
    with pytest.raises(error), images.write_atomically(path) as file:
        file.write(b"new")
        raise raised
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_full_disk(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"a.png can't be written \(No space left on device\);"):
        images.save_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
    assert not os.listdir(tmp_path)


def test_nothing_has_the_name_before_the_end(tmp_path):
    path = tmp_path / "a.json"
    with images.write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path, umask):
    previous = os.umask(umask)
    try:
        with images.write_atomically(tmp_path / "a"):
            pass
        (tmp_path / "b").touch()
    finally:
        os.umask(previous)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def test_replacing_keeps_permissions_and_links(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with images.write_atomically(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# Errors


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png"])
def test_unknown_extension(tmp_path, name):
    for call in (
        images.check_output_name,
        lambda path: images.save_image(path, np.zeros((2, 2, 3))),
    ):
        with pytest.raises(InputError, match=r"has the extension .*; expected one of \.png, \.jpg"):
            call(tmp_path / name)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["nowhere/a.png", "folder.png"])
def test_unwritable_name(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=rf"{name} can't be written \((No such|Is a dir).*\); exp"):
        images.save_image(tmp_path / name, np.zeros((2, 2, 3)))
    assert os.listdir(tmp_path) == ["folder.png"]


def test_too_much_for_the_format(tmp_path):
    long = np.zeros((1, 16_400, 3))
    with pytest.raises(InputError, match=r"a.webp can't hold this picture \(.*16383.*\.png or"):
        images.save_image(tmp_path / "a.webp", long)
    with pytest.raises(InputError, match=r"a.jpg can't hold this picture \(EXIF data is too long"):
        images.save_image(tmp_path / "a.jpg", np.zeros((2, 2, 3)), metadata={"a": "b" * 70_000})


@pytest.mark.parametrize("size", [0, -3])
def test_size_must_be_positive(load, size):
    with pytest.raises(InputError, match=f"size={size} is not positive; expected a whole number"):
        load(encode(Image.new("RGB", (4, 4)), "PNG"), size=size)


def test_size_has_a_limit(load):
    with pytest.raises(InputError, match="size=99999 would make .* 99999 x 50000 pixels; expected"):
        load(encode(Image.new("RGB", (4, 2)), "PNG"), size=99999, enlarge=True)


@pytest.mark.parametrize("read", [images.load_image, images.load_metadata])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"can't be read \(it is empty\); expected a picture file; check"),
        (b"Dear diary", "is not a picture that can be recognized; expected a complete .*PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that can be recog"),
        (b"\x89PNG\r\n\x1a\n", r"is not a picture"),
    ],
)
def test_not_a_picture(tmp_path, read, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a")


@pytest.mark.parametrize("read", [images.load_image, images.load_metadata])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", r"missing.png can't be read \(No such file or directory\)"),
        ("", r"can't be read \(Is a directory\)"),
        ("a\0.png", r"can't be read \(embedded null byte\)"),
    ],
)
def test_unreadable_name(tmp_path, read, name, message):
    with pytest.raises(InputError, match=message):
        read(os.path.join(tmp_path, name))


def test_no_permission_to_read(load, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The super-user may read everything, so the file's mode would not do.
    monkeypatch.setattr(images, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"can't be read \(Permission denied\)"):
        load(b"x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_cut_short(load, kind):
    data = encode(Image.fromarray(random_array(40, 40, 3)), kind)
    with pytest.raises(InputError, match=r"picture (can't be decoded|is not a picture)"):
        load(data[: len(data) // 2])


def test_pixel_limit(load, monkeypatch):
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    message = "has too many pixels; expected at most [0-9,]+; scale it down first"
    with pytest.raises(InputError, match=message):
        load(b"\x89PNG\r\n\x1a\n" + huge + chunk(b"IDAT", b""))
    monkeypatch.setattr(images, "MAX_PIXELS", 15)
    png = encode(Image.new("RGB", (4, 4)), "PNG")
    for data in (png, encode_tiff(np.zeros((4, 4, 3), np.float32), photometric="rgb")):
        with pytest.raises(InputError, match=message):
            load(data)


def test_pillow_warns_nobody(load, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    load(encode(Image.new("RGB", (4, 4)), "PNG"))  # a warning would be an error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(Image.new("LAB", (4, 4)), "TIFF"), "color mode LAB is not supported"),
        (encode_tiff(np.zeros((4, 4), np.int16)), "samples of the kind int16 are not supported"),
        (encode_tiff(np.zeros((4, 4), np.complex64)), "kind complex64 are not supported"),
        (
            encode_tiff(np.zeros((4, 4, 3), np.float32), photometric="cielab"),
            "3 channels as CIELAB are not supported",
        ),
        (encode_tiff(np.full((4, 4), np.nan, np.float32)), "some of its values are not numbers"),
    ],
)
def test_unsupported_samples(load, data, message):
    with pytest.raises(InputError, match=rf"can't be decoded \(.*{message}\); expected .*; get it"):
        load(data)


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
def test_damage_gives_a_picture_or_a_sentence(load, kind):
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
            picture = load(bytes(damaged), size=20)
        except InputError:
            continue
        assert picture.image.dtype == np.float32
        assert picture.image.ndim == 3 and picture.image.shape[2] == 3
        assert picture.image.min() >= 0 and picture.image.max() <= 1  # fails for NaN too
        assert picture.alpha is None or picture.alpha.shape == picture.image.shape[:2]
