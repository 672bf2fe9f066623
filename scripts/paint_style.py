"""Paint the demo style image: brush strokes in a swirling dusk sky over a harvest field.

Direction and color bands both follow one scalar field, which is what makes the strokes flow.
The composition is fixed and the seed moves the brush, so a seed and a size give one image.
"""

import os
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from numpy import ndarray as Array
from numpy.random import Generator
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.io.files import write_atomically

_OUTPUT = flags.DEFINE_string("output", "brush_strokes.png", "PNG file to write.")
_WIDTH = flags.DEFINE_integer("width", 640, "Pixels across.", lower_bound=64, upper_bound=2048)
_HEIGHT = flags.DEFINE_integer("height", 512, "Pixels down.", lower_bound=64, upper_bound=2048)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the brush.", lower_bound=0)

_COOL = ("#0a1638", "#10285f", "#17448c", "#1f6aa5", "#2b8f9f", "#6fbcb0", "#c5dfc4")
_WARM = ("#6d2413", "#a83f17", "#d4681a", "#e8951f", "#f3ba3f", "#f9dc86", "#fdf3d2")
_LAND = ("#16294f", "#1f6068", "#7d2f16", "#bd5a1a", "#df9426", "#f1bf4d", "#f9e3a4")
# The vortices: x from the middle, y and radius in heights of the image; the sense of the spin.
_CENTERS = ((0.24, 0.31), (-0.34, 0.22), (-0.10, 0.53), (0.58, 0.58), (-0.57, 0.53), (-0.03, 0.04))
_RADII_AND_SPINS = ((0.21, 1), (0.13, -1), (0.10, 1), (0.09, -1), (0.08, 1), (0.08, 1))
# Broad brushes first; width, length and spacing of the strokes in 1/512 of the height.
_LAYERS = ((30, 125, 28), (20, 95, 26), (13, 66, 25), (7.5, 44, 27))
_SCALE = 2  # Strokes have hard edges: they are painted this much larger, then averaged down.


def _ramp(colors: tuple[str, ...], tone: Array) -> Array:
    """Return colors in [0, 1] at ``tone``, from 0 for the first of ``colors`` to 1 for the last."""
    table = np.array([list(bytes.fromhex(color[1:])) for color in colors]) / 255
    stops = np.linspace(0, 1, len(table))
    return np.stack([np.interp(tone, stops, channel) for channel in table.T], axis=-1)


def _depth(x: Array, y: Array) -> Array:
    """Return how far a point lies below the line of the hills; negative in the sky."""
    return y - 0.76 - 0.045 * np.sin(2.6 * x + 0.5) - 0.02 * np.sin(6.1 * x + 2.0)


def _stream(x: Array, y: Array) -> Array:
    """Return the scalar field whose level lines the brush follows."""
    depth = _depth(x, y)
    sky = 0.05 * np.sin(4.2 * x + 2.5 * y) + 0.02 * np.sin(9 * x - 5 * y + 1)
    for (cx, cy), (radius, spin) in zip(_CENTERS, _RADII_AND_SPINS, strict=True):
        sky += 2.5 * spin * radius / (1 + ((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
    land = 0.07 * np.sin(5 * x + 6 * depth) + 0.025 * np.sin(11 * x - 9 * depth)
    # Both die down toward the hills, so that strokes run along the horizon, never through it.
    return 0.7 * depth + np.tanh(np.abs(depth) / 0.12) * np.where(depth > 0, land, sky)


def _pigment(x: Array, y: Array, rng: Generator, chance: float) -> Array:
    """Return a brush's load of color for strokes at given points, varied by ``chance``."""
    depth, stream = _depth(x, y), _stream(x, y)
    tint, doubt = chance * rng.normal(0, 0.11, (2, *x.shape))
    band = 0.5 + 0.5 * np.sin(stream * np.where(depth > 0, 72, 26))
    cool = _ramp(_COOL, 0.06 + 0.56 * band + 0.22 * band**6 + tint)
    land = _ramp(_LAND, 0.10 + 0.55 * band + depth + tint)
    glow, heat = np.zeros_like(x), np.full_like(x, 0.5)
    for (cx, cy), (radius, spin) in zip(_CENTERS, _RADII_AND_SPINS, strict=True):
        r = np.hypot(x - cx, y - cy) / radius
        ring = np.cos(15 * r + spin * np.arctan2(y - cy, x - cx))
        near = np.exp(-((r / 1.05) ** 2)) + 0.22 * ring * (r > 0.6) * np.exp(-((r / 1.5) ** 4))
        heat = np.where(near > glow, 1.02 - 0.66 * r + 0.14 * ring, heat)
        glow = np.maximum(glow, near)
    # Warm or cool, never mixed to mud; a few warm strokes stray into the dark.
    stray = rng.random(x.shape) < 0.035 * chance
    warm = _ramp(_WARM, np.where(stray, 0.5, heat) + tint)
    sky = np.where(((glow + doubt > 0.4) | stray)[..., None], warm, cool)
    return np.where((depth > 0)[..., None], land, sky)


def _lay(canvas: Array, path: Array, width: float, load: Array, rng: Generator) -> None:
    """Drag a brush loaded with two colors along ``path``, changing the canvas in place."""
    u = np.linspace(0, 1, len(path))[:, None]
    v = np.linspace(-1, 1, int(2 * width) + 2)
    along = np.gradient(path, axis=0)
    normal = along[:, ::-1] * (-1, 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    half = 0.5 * width * np.sqrt(1 - (1 - u / 0.12).clip(0) ** 2) * (1 - 0.55 * u**3)
    column, row = np.rint(path.T[..., None] + normal.T[..., None] * half * v).astype(int)
    # Each bristle holds its own share of the two colors and runs dry at its own place.
    count = int(width / 2.5) + 3
    bristle, dry = (
        np.interp(v, np.linspace(-1, 1, count), rng.normal(0, 1, count)) for _ in (0, 1)
    )
    mix = (0.5 + 0.9 * v * rng.choice([-1, 1]) + 0.3 * bristle).clip(0, 1)[:, None]
    shade = 1 + 0.11 * bristle + 0.04 * np.sin(9 * u + 3 * dry)
    color = (load[0] * mix + load[1] * (1 - mix)) * shade[..., None]
    # Paint is squeezed out to the edges of a stroke, furrowed by bristles, thickest at its start.
    relief = 0.8 * np.abs(v) ** 3 + 0.4 * bristle + 0.6 * (1 - u)
    rows, columns = canvas.shape[:2]
    wet = (u < 0.93 + 0.07 * dry) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    canvas[row[wet], column[wet]] = np.dstack([color, relief])[wet]


def paint(width: int, height: int, seed: int) -> Array:
    """Paint the image as an array of shape ``(height, width, 3)`` in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns, side = height * _SCALE, width * _SCALE, 0.5 * width / height
    y, x = np.mgrid[0:rows, 0:columns] / rows
    # The ground is toned like the painting: a gap between strokes is never blank canvas.
    canvas = np.dstack([0.8 * _pigment(x - side, y, rng, chance=0), np.zeros((rows, columns))])
    for breadth, length, spacing in np.array(_LAYERS) / 512:
        # Strokes also start outside the image, by their own length, so its edges are covered.
        grid = np.mgrid[-side - length : side + length : spacing, -length : 1 + length : spacing]
        at = grid.reshape(2, -1).T + rng.uniform(0, spacing, (grid[0].size, 2))
        rng.shuffle(at)
        loads = np.stack([_pigment(at[:, 0], at[:, 1], rng, chance=1) for _ in range(2)], axis=1)
        paths = []
        for _ in range(int(length * rows / 0.5)):
            paths.append((at + (side, 0)) * rows)
            px, py = at.T
            here = _stream(px, py)
            flow = np.stack([_stream(px, py + 1e-4) - here, here - _stream(px + 1e-4, py)], axis=1)
            at = at + 0.5 / rows * flow / (np.linalg.norm(flow, axis=1, keepdims=True) + 1e-9)
        for path, load in zip(np.stack(paths, axis=1), loads, strict=True):
            path = path[: int(len(path) * rng.uniform(0.55, 1))]
            _lay(canvas, path, breadth * rows * rng.uniform(0.7, 1.2), load, rng)
    # The fourth channel is the thickness of the paint, lit from the upper left.
    light = 1 + 0.2 * np.tanh(sum(np.gradient(canvas[..., 3])))
    canvas = canvas[..., :3] * light[..., None]
    return canvas.reshape(height, _SCALE, width, _SCALE, 3).mean((1, 3)).clip(0, 1)


def main(argv: list[str]) -> None:
    """Paint the image that the flags describe and write it."""
    if argv[1:]:
        raise InputError(f"{argv[1]!r} is not a flag", expected="only flags", remedy="see --help")
    output = Path(_OUTPUT.value)
    if output.suffix != ".png" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError(
            f"--output={output} can't be written",
            expected="a name ending in .png in a folder that exists and may be written to",
            remedy="choose another name or create the folder first",
        )
    pixels = np.rint(255 * paint(_WIDTH.value, _HEIGHT.value, _SEED.value)).astype(np.uint8)
    # 256 colors keep the file small; dots of dithering would become part of the style.
    quantized = Image.fromarray(pixels).quantize(256, kmeans=3, dither=Image.Dither.NONE)
    with write_atomically(output) as file:
        quantized.save(file, format="PNG", optimize=True)


if __name__ == "__main__":
    try:
        # absl's own parser would answer a bad flag with a page of text and exit code 1.
        app.run(main, flags_parser=flags.FLAGS)
    except (InputError, flags.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
