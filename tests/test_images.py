"""Pictures from and to files, against Pillow's own conversions, tifffile and literal formulas."""

import errno
import hashlib
import io
import os
import struct

import numpy as np
import pytest
import tifffile
from encoding import encode, over_white, random_array
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from neuart_jax.config.errors import InputError
from neuart_jax.io import images

ORIENTATION, DESCRIPTION = ExifTags.Base.Orientation, ExifTags.Base.ImageDescription


@pytest.fixture
def load(tmp_path):
    """Load a picture from its bytes."""

    def load_bytes(data, **options):
        path = tmp_path / "picture"  # content decides, not the name
        path.write_bytes(data)
        return images.load_image(path, **options)

    return load_bytes


# Reading


def test_picture_over_white_with_its_hash(load):
    rgba = random_array(5, 7, 4)
    data = encode(Image.fromarray(rgba), "PNG")
    picture = load(data)
    unit = rgba / 255
    np.testing.assert_allclose(picture.image, over_white(unit[..., :3], unit[..., 3]), atol=1e-6)
    np.testing.assert_allclose(picture.alpha, unit[..., 3], atol=1e-6)
    assert picture.image.dtype == picture.alpha.dtype == np.float32
    assert picture.image.flags.c_contiguous
    assert picture.sha256 == hashlib.sha256(data).hexdigest()


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


def test_scaling_keeps_16_bits(tmp_path):
    samples = random_array(20, 31, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb")
    scaled = images.load_image(tmp_path / "a.tif", size=11).image
    by_way_of = images.resize_image(images.resize_image(samples / 65535, 14, 22), 7, 11)
    np.testing.assert_allclose(scaled, by_way_of, atol=1e-6)


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
    with pytest.raises(InputError, match=r"a.png can't hold this image \(broken data stream\);"):
        images.save_image(path, np.zeros((2, 2, 3)))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_full_disk(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"a.png can't be written \(No space left on device\);"):
        images.save_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
    assert not os.listdir(tmp_path)


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
    with pytest.raises(InputError, match=r"a.webp can't hold this image \(.*16383.*\.png or"):
        images.save_image(tmp_path / "a.webp", long)
    with pytest.raises(InputError, match=r"a.jpg can't hold this image \(EXIF data is too long"):
        images.save_image(tmp_path / "a.jpg", np.zeros((2, 2, 3)), metadata={"a": "b" * 70_000})


@pytest.mark.parametrize("size", [0, -3])
def test_size_must_be_positive(load, size):
    with pytest.raises(InputError, match=f"size={size} is not positive; expected a whole number"):
        load(encode(Image.new("RGB", (4, 4)), "PNG"), size=size)


def test_size_has_a_limit(load):
    with pytest.raises(
        InputError, match="size=99999 would scale .* to 99999 x 50000 pixels; expected"
    ):
        load(encode(Image.new("RGB", (4, 2)), "PNG"), size=99999, enlarge=True)


@pytest.mark.parametrize("read", [images.load_image, images.load_metadata])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"can't be read \(it is empty\); expected an image file; check"),
        (b"Dear diary", "is not in a known image format; expected a complete .*PNG"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "is a PostScript document",
        ),
        (b"\x89PNG\r\n\x1a\n", r"is not in a known image format"),
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
        ("a\0.png", r"can't be read \(.*embedded null "),
    ],
)
def test_unreadable_name(tmp_path, read, name, message):
    with pytest.raises(InputError, match=message):
        read(os.path.join(tmp_path, name))


def test_no_permission_to_read(load, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The super-user may read everything, so the file's mode would not do.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"can't be read \(Permission denied\)"):
        load(b"x")
