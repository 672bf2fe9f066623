"""Make three clips whose motion is known, and measure what finds motion against it.

  python scripts/make_clips.py --output=clips [--frames=48] [--width=448] [--flows] [--check=dis]

`pan.mp4`: a camera moves, turns and comes nearer over a photograph. `object.mp4`: one picture moves
before another, and covers and uncovers it. `cut.mp4`: two photographs, with a cut between them.
`--flows` writes the true flows beside each, in Middlebury's format, as NAME_flow/backward_2_1.flo
(where each pixel of frame 2 is in frame 1) and forward_1_2.flo. `--check` prints, for each of
FLOW_METHODS that it names, how far the flows that are found are from the true ones.

Photographs are scikit-image's: Rachel Michetti's coffee, SpaceX's rocket and Stefan van der Walt's
cat (all CC0), and NASA's astronaut (public domain).
"""

import math
import struct
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
from absl import app, flags
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter, map_coordinates

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.motion.consistency import find_reliable_share, find_weights, is_cut
from neuart_jax.inputs.motion.flow import check_flow_method, find_flow
from neuart_jax.io.clips.film_writing import FilmPlan, check_film, writing_film
from neuart_jax.io.files import make_folder, write_atomically

_OUTPUT = flags.DEFINE_string("output", "clips", "Folder to write to.")
_FRAMES = flags.DEFINE_integer("frames", 48, "Frames of each clip.", lower_bound=4)
_WIDTH = flags.DEFINE_integer(
    "width", 448, "Pixels across; three quarters of it down.", lower_bound=64
)
_FLOWS = flags.DEFINE_bool("flows", False, "Whether to write the true flows, 2 MB a frame.")
_CHECK = flags.DEFINE_list("check", [], "Ways to find a flow, to measure against the true ones.")

_RATE = 24
# The motions below are for this width, and grow with it.
_USUAL_WIDTH = 448
_WRONG = 2.0  # Pixels.


class Layer(NamedTuple):
    """An image that moves.

    Attributes:
      image: float64[height, width, 3] in [0, 1].
      mask: float64[height, width] in [0, 1], what of it is there; None is all.
      place: (share of the clip in [0, 1]) -> matrix float64[2, 3] from (x, y, 1) in a frame to
        (x, y) in the image.
    """

    image: Array
    mask: Array | None
    place: Callable[[float], Array]


class Shot(NamedTuple):
    """Layers from the back to the front, and where in the clip they are seen."""

    layers: Sequence[Layer]
    num_frames: int


class Truth(NamedTuple):
    """Where each pixel of a frame is in another one, float64[height, width, 2], and if it is there.

    Attributes:
      flow: in pixels, to the right and down.
      visible: bool[height, width]; False where it is hidden there, or outside.
    """

    flow: Array
    visible: Array


def _photograph(name: str, zoom: float) -> Array:
    """Return a photograph without what frames that are so much smaller can't show."""
    image = getattr(skimage.data, name)().astype(np.float64) / 255
    sigma = math.sqrt(max(0.0, zoom**2 - 1)) / 2
    return gaussian_filter(image, (sigma, sigma, 0))


def _look(
    center: tuple[float, float], *, scale: float, degrees: float, size: tuple[int, int]
) -> Array:
    """Return the matrix of a frame whose middle shows a point of an image.

    Args:
      center: x and y of the point.
      scale: pixels of the image for one of the frame.
      degrees: by which the frame is turned.
      size: height and width of the frame.
    """
    angle = math.radians(degrees)
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.concatenate([turn, (np.array(center) - turn @ middle)[:, None]], axis=1)


def make_shots(size: tuple[int, int], num_frames: int) -> dict[str, list[Shot]]:
    """Lay out the three clips for frames of a height and a width."""
    zoom = _USUAL_WIDTH / size[1]
    coffee, rocket, cat, astronaut = (
        _photograph(name, zoom) for name in ("coffee", "rocket", "chelsea", "astronaut")
    )
    y, x = np.mgrid[: cat.shape[0], : cat.shape[1]]
    distance = np.hypot((x - 225) / 105, (y - 140) / 100)
    head = np.clip((1 - distance) * 50 + 0.5, 0, 1)  # An edge of two pixels.

    def pan(t: float) -> Array:
        center = 245 + 110 * t, 195 + 12 * math.sin(2 * math.pi * t)
        return _look(center, scale=zoom * (1 - 0.12 * t), degrees=4 * t - 2, size=size)

    def behind(t: float) -> Array:
        return _look((300 + 40 * t, 215), scale=zoom, degrees=0, size=size)

    def before(t: float) -> Array:
        # A layer goes to the right as the place that is looked at goes to the left.
        center = 225 + 190 - 380 * t, 140 - 40 * math.sin(2 * math.pi * t)
        return _look(center, scale=1.3 * zoom, degrees=12 * t, size=size)

    def first(t: float) -> Array:
        return _look((250 + 40 * t, 190), scale=zoom, degrees=0, size=size)

    def second(t: float) -> Array:
        return _look((225, 150 + 10 * t), scale=0.8 * zoom, degrees=3 * t, size=size)

    half = num_frames // 2
    return {
        "pan": [Shot([Layer(coffee, None, pan)], num_frames)],
        "object": [Shot([Layer(rocket, None, behind), Layer(cat, head, before)], num_frames)],
        "cut": [
            Shot([Layer(astronaut, None, first)], half),
            Shot([Layer(cat, None, second)], num_frames - half),
        ],
    }


def _share(shot: Shot, index: int) -> float:
    return index / (shot.num_frames - 1)


def _grid(size: tuple[int, int]) -> Array:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns, rows], axis=-1).astype(np.float64)


def _apply(matrix: Array, points: Array) -> Array:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _undo(matrix: Array, points: Array) -> Array:
    return (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _sample(values: Array, points: Array, *, order: int, outside: str) -> Array:
    places = points[..., 1], points[..., 0]
    return map_coordinates(values, places, order=order, mode=outside)


def render(shot: Shot, index: int, size: tuple[int, int]) -> Array:
    """Return a frame of a shot, float32[height, width, 3] in [0, 1]."""
    frame = np.zeros((*size, 3))
    for layer in shot.layers:
        points = _apply(layer.place(_share(shot, index)), _grid(size))
        colors = np.stack(
            [_sample(layer.image[..., c], points, order=3, outside="mirror") for c in range(3)],
            axis=-1,
        )
        cover = np.ones(size)
        if layer.mask is not None:
            cover = _sample(layer.mask, points, order=1, outside="constant")
        frame += cover[..., None] * (colors - frame)
    return np.clip(frame, 0, 1).astype(np.float32)


def _front(shot: Shot, index: int, points: Array) -> Array:
    """Return the number of the layer that is seen at each point of a frame."""
    seen = np.zeros(points.shape[:2], int)
    for number, layer in enumerate(shot.layers):
        if layer.mask is not None:
            there = _apply(layer.place(_share(shot, index)), points)
            cover = _sample(layer.mask, there, order=1, outside="constant")
            seen[cover >= 0.5] = number
    return seen


def find_truth(shot: Shot, index: int, other: int, size: tuple[int, int]) -> Truth:
    """Find where each pixel of a frame is in another frame of the shot."""
    grid = _grid(size)
    seen = _front(shot, index, grid)
    moved = np.zeros_like(grid)
    for number, layer in enumerate(shot.layers):
        points = _apply(layer.place(_share(shot, index)), grid)
        there = _undo(layer.place(_share(shot, other)), points)
        moved[seen == number] = there[seen == number]
    inside = np.all((moved >= 0) & (moved <= np.array([size[1], size[0]]) - 1), axis=-1)
    return Truth(moved - grid, inside & (_front(shot, other, moved) == seen))


def _frames(shots: Sequence[Shot]) -> list[tuple[Shot, int]]:
    return [(shot, index) for shot in shots for index in range(shot.num_frames)]


def write_clip(path: Path, shots: Sequence[Shot], size: tuple[int, int]) -> None:
    """Write a clip as a film."""
    plan = FilmPlan(*size, Fraction(1, _RATE), Fraction(_RATE))
    check_film(path, plan)
    with writing_film(path, plan) as film:
        for number, (shot, index) in enumerate(_frames(shots)):
            film.add(render(shot, index, size), Fraction(number, _RATE), Fraction(1, _RATE))


def write_flows(folder: Path, shots: Sequence[Shot], size: tuple[int, int]) -> None:
    """Write the true flows between frames in sequence; across a cut there is none."""
    make_folder(folder)
    frames = _frames(shots)
    for number in range(1, len(frames)):
        (before, earlier), (shot, index) = frames[number - 1 : number + 1]
        if before is not shot:
            continue
        backward = find_truth(shot, index, earlier, size).flow
        forward = find_truth(shot, earlier, index, size).flow
        _write_flow(folder / f"backward_{number + 1}_{number}.flo", backward)
        _write_flow(folder / f"forward_{number}_{number + 1}.flo", forward)


def _write_flow(path: Path, flow: Array) -> None:
    with write_atomically(path) as file:
        file.write(struct.pack("<4sii", b"PIEH", flow.shape[1], flow.shape[0]))
        file.write(flow.astype("<f4").tobytes())


def check(shots: Sequence[Shot], size: tuple[int, int], method: str) -> dict[str, float]:
    """Measure flows between frames in sequence, and the weights made of them.

    Returns:
      "length", the mean of the true flow; "error", the mean distance of the found one from it, both
      in pixels, over those that are in both frames; "wrong", the share of all pixels whose weight
      is at least a half though the flow is off by 2 pixels or they aren't in both; "hidden", the
      share of pixels that aren't in both whose weight is below a half; "reliable", the share of all
      whose weight is at least a half, both within shots; "cut", the same across the cut, or NaN;
      "cuts", how many were found; "seconds" for a flow.
    """
    frames = _frames(shots)
    images = [render(shot, index, size) for shot, index in frames]
    rows: list[tuple[float, ...]] = []
    across, num_cuts, seconds = math.nan, 0, 0.0
    for number in range(1, len(frames)):
        began = time.perf_counter()
        backward = find_flow(images[number], images[number - 1], method=method)
        forward = find_flow(images[number - 1], images[number], method=method)
        seconds += (time.perf_counter() - began) / 2 / (len(frames) - 1)
        weights = find_weights(backward, forward)
        num_cuts += is_cut(weights)
        (before, earlier), (shot, index) = frames[number - 1 : number + 1]
        if before is not shot:
            across = find_reliable_share(weights)
            continue
        flow, visible = find_truth(shot, index, earlier, size)
        errors = np.linalg.norm(backward - flow, axis=-1)
        trusted = weights >= 0.5
        is_wrong = trusted & (~visible | (errors > _WRONG))
        rows.append(
            (
                float(np.linalg.norm(flow, axis=-1)[visible].mean()),
                float(errors[visible].mean()),
                float(is_wrong.mean()),
                float((~trusted)[~visible].mean()),
                find_reliable_share(weights),
            )
        )
    names = "length", "error", "wrong", "hidden", "reliable"
    means = np.mean(rows, axis=0)
    return dict(zip(names, map(float, means), strict=True)) | {
        **{"cut": across, "cuts": float(num_cuts), "seconds": seconds}
    }


def main(argv: list[str]) -> None:
    """Make the clips."""
    if argv[1:]:
        raise InputError(f"{argv[1]!r} is not a flag", expected="only flags", remedy="see --help")
    for method in _CHECK.value:
        check_flow_method(method)
    folder = Path(_OUTPUT.value)
    make_folder(folder)
    size = round(_WIDTH.value * 3 / 4), _WIDTH.value
    for name, shots in make_shots(size, _FRAMES.value).items():
        path = folder / f"{name}.mp4"
        write_clip(path, shots, size)
        print(path)
        if _FLOWS.value:
            write_flows(folder / f"{name}_flow", shots, size)
        for method in _CHECK.value:
            found = check(shots, size, method)
            print(f"  {method}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))


if __name__ == "__main__":
    try:
        # absl's own parser would answer a bad flag with a page of text and exit code 1.
        app.run(main, flags_parser=flags.FLAGS)
    except (InputError, flags.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
