"""Sets of photographs: which, in which form, and how they are told apart."""

import itertools
import socket

import numpy as np
import pytest
import skimage.data

from neuart_jax.config.errors import InputError
from neuart_jax.io.images import save_image
from neuart_jax.models.params.fitted import photographs
from neuart_jax.models.params.fitted.photographs import (
    bundled_photographs,
    folder_photographs,
    image_set_identity,
)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "socket", refuse)


def test_the_bundled_photographs_are_scikit_images(no_network):
    images = dict(zip(photographs.BUNDLED, bundled_photographs(), strict=True))
    for name, image in images.items():
        assert image.dtype == np.float32
        height, width, channels = image.shape
        assert channels == 3
        assert 300 <= min(height, width) and max(height, width) <= photographs.LONGEST_SIDE
        assert 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1, name
        assert np.abs(image[..., 0] - image[..., 2]).mean() > 0.02, name
    for name, pixels in (
        ("astronaut.png", skimage.data.astronaut()),
        ("chelsea.png", skimage.data.chelsea()),
    ):
        np.testing.assert_allclose(images[name], pixels / 255, atol=1e-6)
    assert images["coffee.png"].shape == (341, 512, 3)
    assert images["motorcycle_left.png"].shape == (345, 512, 3)
    assert images["rocket.jpg"].shape == (342, 512, 3)


def test_an_installation_without_them_is_told(monkeypatch):
    monkeypatch.setattr(photographs, "BUNDLED", ("chelsea.png", "gone.png"))
    images = bundled_photographs()
    next(images)
    with pytest.raises(InputError, match=r"gone\.png can't be read"):
        next(images)


@pytest.fixture
def folder(tmp_path, content_image, style_image):
    save_image(tmp_path / "b.png", content_image)
    save_image(tmp_path / "A.TIF", style_image)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"not a picture")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_a_folders_pictures_come_in_the_order_of_their_names(folder, content_image, style_image):
    first, second = folder_photographs(folder)
    np.testing.assert_allclose(first, style_image, atol=1e-5)
    np.testing.assert_allclose(second, content_image, atol=0.0021)
    assert all(image.dtype == np.float32 for image in (first, second))


def test_large_pictures_are_reduced(tmp_path):
    save_image(tmp_path / "large.png", np.full((300, 900, 3), 0.5, np.float32))
    (image,) = folder_photographs(str(tmp_path))
    assert image.shape == (171, 512, 3)


def test_pictures_are_read_one_at_a_time_and_a_damaged_one_is_named(folder):
    (folder / "c.jpg").write_bytes(b"not a picture")
    images = folder_photographs(folder)
    assert len(list(itertools.islice(images, 2))) == 2
    with pytest.raises(InputError, match=r"c\.jpg"):
        next(images)


def test_a_folder_that_is_none_or_has_no_picture_is_refused(tmp_path):
    with pytest.raises(InputError, match="gone can't be read .*; expected a folder"):
        next(folder_photographs(tmp_path / "gone"))
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(InputError, match="has no images; expected a folder"):
        next(folder_photographs(tmp_path))


def test_the_identity_is_that_of_the_pixels_in_any_order():
    rng = np.random.default_rng(0)
    images = [rng.random((*size, 3), np.float32) for size in ((4, 6), (6, 4), (5, 5))]
    identity = image_set_identity(iter(images))
    assert len(identity) == 16 and int(identity, 16) > 0
    assert image_set_identity(images[::-1]) == identity
    assert image_set_identity([image[:, ::-1][:, ::-1] for image in images]) == identity
    changed = [image.copy() for image in images]
    changed[1][3, 2, 1] += 1e-3
    others = [changed, images[:2], [*images, images[0]], [images[0].reshape(6, 4, 3), *images[1:]]]
    identities = {identity, image_set_identity(()), *map(image_set_identity, others)}
    assert len(identities) == 6
