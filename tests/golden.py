"""Whole runs whose pictures stay what they were: ``python tests/golden.py FILE`` writes them anew.

Filters are random ones, so that nothing but this package's own code decides about the numbers.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
from conftest import smooth_image

from neuart_jax import Config, Result, load_image, save_image, stylize, stylize_batch, transfer
from neuart_jax.config.presets import apply_preset
from neuart_jax.io.images import resize_image

FILE = Path(__file__).with_name("golden.npz")

ROOT = Path(__file__).parents[1]
RANDOM = {"weights": "random"}
SHALLOW = {
    **RANDOM,
    "model": "vgg19",
    "content_layers": "relu2_1",
    "style_layers": "relu1_1,relu2_1",
    "report_every": 2,
}


def _images(height: int, width: int, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return smooth_image(height, width, seed=seed), smooth_image(56, 40, seed=seed + 1)


def _reduced(image: np.ndarray) -> np.ndarray:
    """Reduce to 128 pixels at once: how files are reduced may change without moving these."""
    height, width = (round(side * 128 / max(image.shape)) for side in image.shape[:2])
    return resize_image(image, height, width)


def demo() -> list[Result]:
    """What `make demo` does, at 128 pixels and with its default number of steps cut to ten."""
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / "chelsea.png"
        save_image(content, skimage.data.chelsea().astype(np.float32) / 255)
        photograph = _reduced(load_image(content).image)
    strokes = _reduced(load_image(ROOT / "docs" / "images" / "brush_strokes.png").image)
    return [stylize(photograph, strokes, Config().replace(**RANDOM, steps=10, coarse_steps=10))]


def recipe(name: str, **settings: object) -> list[Result]:
    """Five steps of a recipe."""
    config = apply_preset(name, Config(), **{**RANDOM, "model": "vgg16", "steps": 5}, **settings)
    return [stylize(*_images(48, 64), config)]


def batch() -> list[Result]:
    """Two pairs at once, with coefficients of their own."""
    pairs = [_images(48, 64), _images(48, 64, seed=5)]
    config = Config().replace(**SHALLOW, steps=6, scales=1)
    return stylize_batch([pair[0] for pair in pairs], [pair[1] for pair in pairs], config)


def windowed() -> list[Result]:
    """A picture that is computed window by window."""
    config = Config().replace(**SHALLOW, steps=4, scales=1, window=64)
    return [stylize(*_images(96, 120), config)]


def adam() -> list[Result]:
    """Adam with an average of its iterates, over two scales, with a realistic stage."""
    config = Config().replace(
        **SHALLOW, optimizer="adam", average=0.9, steps=6, coarse_steps=4, scales=2
    )
    config = config.replace(realism_weight=1e3, realism_steps=3)
    return [stylize(*_images(130, 160), config)]


def resumed() -> list[Result]:
    """A run that is cut after four of eight steps and gone on with."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, image in zip(("photo", "painting"), _images(48, 64), strict=True):
            save_image(f"{name}.png", image)
        config = Config().replace(
            **SHALLOW,
            **{"content": "photo.png", "style": "painting.png", "output": "out"},
            **{"steps": 8, "scales": 1, "checkpoint_seconds": 1e-9},
        )

        def cut(progress: object) -> None:
            if progress.num_steps == 4:  # type: ignore[attr-defined]
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            transfer(config, callback=cut)
        assert (Path("out") / "checkpoints").exists()
        return [transfer(config).result]


CASES: dict[str, Callable[[], list[Result]]] = {
    "demo": demo,
    "gatys2015": lambda: recipe("gatys2015"),
    "neural-style": lambda: recipe("neural-style"),
    "crowsonkb": lambda: recipe("crowsonkb", coarse_steps=5, scales=1),
    "batch": batch,
    "windowed": windowed,
    "adam": adam,
    "resumed": resumed,
}


def collect(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float32[pictures, height, width, 3] and the last losses, float64[pictures]."""
    results = CASES[name]()
    images = np.stack([result.image for result in results])
    return images, np.asarray([result.losses["total"] for result in results])


def write(path: Path) -> None:
    """Run every case and write what it gives."""
    arrays = {}
    for name in CASES:
        images, losses = collect(name)
        arrays |= {f"{name} images": images, f"{name} losses": losses}
        print(name, images.shape, losses)
    if path == FILE:  # Smaller, and nothing elsewhere is nearer than that.
        for name in CASES:
            images = arrays[f"{name} images"]
            arrays[f"{name} images"] = np.round(images * 255).astype(np.uint8)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
