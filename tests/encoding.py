"""Small arrays and encoded pictures for the tests of images."""

import io

import numpy as np


def random_array(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def over_white(color, alpha):
    return color * alpha[..., None] + 1 - alpha[..., None]


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
