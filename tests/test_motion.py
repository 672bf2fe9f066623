"""Flows against known motions and other programs; weights against the formulas, pixel by pixel."""

import builtins
import struct

import cv2
import numpy as np
import pytest
import skimage.data
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from neuart_jax.config.errors import InputError
from neuart_jax.inputs.motion.consistency import (
    find_reliable_share,
    find_weights,
    is_cut,
    share_weights,
)
from neuart_jax.inputs.motion.flow import FLOW_METHODS, find_flow, resize_flow
from neuart_jax.inputs.motion.warping import INSET, warp
from neuart_jax.io.flow_files import load_flow
from neuart_jax.runs.video.motion import Motion, make_moved_start


def textured(height, width, *, seed=7):
    picture = gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (2, 2, 0))
    return ((picture - picture.min()) / np.ptp(picture)).astype(np.float32)


def constant_flow(height, width, right, down):
    return np.broadcast_to(np.float32([right, down]), (height, width, 2))


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_a_window_that_moves_is_found(method):
    """What is at (y, x) in the second window is at (y + 2, x + 5) in the first."""
    wide = textured(100, 140)
    first, second = wide[:80, :120], wide[2:82, 5:125]
    flow = find_flow(second, first, method=method)
    assert flow.shape == (80, 120, 2) and flow.dtype == np.float32
    inner = flow[12:-12, 12:-12]
    assert_allclose(np.median(inner, axis=(0, 1)), (5, 2), atol=0.1)
    assert np.linalg.norm(inner - (5, 2), axis=-1).mean() < 0.3
    assert_array_equal(find_flow(second, first, method=method), flow)
    # What is in the first window at q is at q - (5, 2) in the second.
    assert_allclose(
        np.median(find_flow(first, second, method=method), axis=(0, 1)), (-5, -2), atol=0.1
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (31, 5), (12, 12), (33, 70)])
@pytest.mark.parametrize("method", FLOW_METHODS)
def test_frames_of_any_size_have_a_flow(size, method):
    frame = textured(*size) if min(size) > 1 else np.zeros((1, 1, 3))
    flow = find_flow(frame, frame, method=method)
    assert flow.shape == (*size, 2)
    assert np.abs(flow).max() < 0.1


def test_threads_do_not_change_a_flow():
    wide = textured(100, 140)
    flows, before = [], cv2.getNumThreads()
    for num_threads in (1, 2, 4):
        cv2.setNumThreads(num_threads)
        flows.append(find_flow(wide[2:, 5:], wide[:-2, :-5]))
    cv2.setNumThreads(before)
    for flow in flows[1:]:
        assert_array_equal(flow, flows[0])


def test_ways_that_are_none_or_take_opencv_are_a_sentence(monkeypatch):
    frame = np.zeros((40, 40, 3))
    with pytest.raises(InputError, match="raft came as a way .*; expected one of dis, dis_fine"):
        find_flow(frame, frame, method="raft")
    with pytest.raises(ValueError, match="expected one size"):
        find_flow(frame, frame[1:])
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (
            (_ for _ in ()).throw(ImportError()) if name == "cv2" else real(name, *rest)
        ),
    )
    with pytest.raises(InputError, match=r"dis needs OpenCV.*jax\[video\].*or use --flow=tvl1"):
        find_flow(frame, frame)
    assert find_flow(frame, frame, method="tvl1").shape == (40, 40, 2)


def test_flows_scale_with_their_frames():
    """A turn and a zoom are linear in the place, at every size."""

    def field(height, width):
        rows, columns = np.mgrid[:height, :width]
        x, y = (columns + 0.5) / width, (rows + 0.5) / height
        return np.stack([width * (0.1 * x - 0.05 * y), height * (0.02 + 0.07 * x)], axis=-1)

    flow = field(60, 90).astype(np.float32)
    for size in [(30, 45), (120, 180), (41, 77), (60, 90)]:
        scaled = resize_flow(flow, *size)
        assert scaled.dtype == np.float32
        # By a share that is no whole number, weights of a tent are a little uneven.
        assert_allclose(scaled[3:-3, 3:-3], field(*size)[3:-3, 3:-3], atol=0.01)
    assert_allclose(resize_flow(constant_flow(8, 6, 3, -1), 4, 12), constant_flow(4, 12, 6, -0.5))


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_warping_by_whole_pixels_moves_them(kernel):
    wide = smooth_image(60, 80, seed=3)
    first, second = wide[:40, :60], wide[3:43, 5:65]
    outside = np.full_like(first, 2.0)
    warped = warp(first, constant_flow(40, 60, 5, 3), kernel=kernel, outside=outside)
    assert warped.dtype == np.float32
    assert_allclose(warped[:-3, :-5], second[:-3, :-5], atol=1e-5)
    # Places outside are filled, whole rows and columns of them.
    assert np.all(warped[-3:] == 2) and np.all(warped[:, -5:] == 2)
    still = warp(first, constant_flow(40, 60, 0, 0), kernel=kernel, outside=outside)
    assert_allclose(still, first, atol=1e-5)


def test_linear_warping_is_opencvs():
    image = smooth_image(40, 60, seed=3)
    rng = np.random.default_rng(0)
    # OpenCV rounds places to 1/32 of a pixel.
    flow = (rng.integers(-96, 96, (40, 60, 2)) / 32).astype(np.float32)
    rows, columns = np.mgrid[:40, :60].astype(np.float32)
    expected = cv2.remap(
        image,
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_REPLICATE,
    )
    warped = warp(image, flow, kernel="linear", outside=np.full_like(image, -1))
    inside = warped[..., 0] >= 0
    assert 0.8 < inside.mean() < 1
    assert_allclose(warped[inside], expected[inside], atol=1e-4)


def test_cubic_warping_stays_sharp():
    """Ten times half a pixel back and forth: a picture blurs by lines, and hardly by splines."""
    image = textured(64, 64)
    left = {}
    for kernel in ("linear", "cubic"):
        moved = image
        for step in [0.5, -0.5] * 5:
            moved = warp(moved, constant_flow(64, 64, step, 0), kernel=kernel, outside=moved)
        inner = np.s_[8:-8, 8:-8]
        left[kernel] = np.var(moved[inner]) / np.var(image[inner])
    assert left["linear"] < 0.8
    assert left["cubic"] > 0.97


def literal_weights(backward, forward):
    """Transcribe the check, pixel by pixel, and the blur, sample by sample."""
    height, width, _ = backward.shape
    values = np.zeros((height, width))

    def at(flow, y, x):
        return flow[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    for y in range(height):
        for x in range(width):
            u, v = backward[y, x]
            to_x, to_y = x + u, y + v
            x0, y0 = int(np.floor(to_x)), int(np.floor(to_y))
            if x0 < 0 or y0 < 0 or x0 + 1 >= width or y0 + 1 >= height:
                continue
            a, b = to_x - x0, to_y - y0
            g = (1 - b) * ((1 - a) * forward[y0, x0] + a * forward[y0, x0 + 1]) + b * (
                (1 - a) * forward[y0 + 1, x0] + a * forward[y0 + 1, x0 + 1]
            )
            total = (u + g[0]) ** 2 + (v + g[1]) ** 2
            if total >= 0.01 * (u * u + v * v + g[0] ** 2 + g[1] ** 2) + 0.5:
                values[y, x] = -255
                continue
            slope = sum(
                ((second - first) / 2) ** 2
                for axis in (0, 1)
                for first, second in [
                    (at(backward, y, x - 1)[axis], at(backward, y, x + 1)[axis]),
                    (at(backward, y - 1, x)[axis], at(backward, y + 1, x)[axis]),
                ]
            )
            values[y, x] = 0 if slope > 0.01 * (u * u + v * v) + 0.002 else 255
    kernel = np.array([np.exp(-(d * d) / (2 * 0.8**2)) for d in range(-2, 3)])
    kernel /= kernel.sum()
    padded = np.pad(values, 2, mode="symmetric")
    blurred = np.zeros_like(values)
    for y in range(height):
        for x in range(width):
            blurred[y, x] = kernel @ padded[y : y + 5, x : x + 5] @ kernel
    return np.clip(blurred, 0, 255) / 255


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_those_of_the_formulas(seed):
    rng = np.random.default_rng(seed)
    backward = gaussian_filter(rng.normal(0, 6, (26, 34, 2)), (6, 6, 0))
    forward = -backward + gaussian_filter(rng.normal(0, 8, (26, 34, 2)), (5, 5, 0))
    backward[8:16, 10:20] += (4, -2)
    weights = find_weights(backward.astype(np.float32), forward.astype(np.float32))
    expected = literal_weights(backward.astype(np.float32), forward.astype(np.float32))
    assert weights.dtype == np.float32
    assert 0.02 < np.mean(weights > 0.5) < 0.98
    assert_allclose(weights, expected, atol=1e-5)


def test_all_is_known_where_nothing_moves_but_the_last_row_and_column():
    still = np.zeros((20, 30, 2), np.float32)
    weights = find_weights(still, still)
    assert_array_equal(weights[:-3, :-3], 1)
    assert np.all(weights[-1] < 0.5) and np.all(weights[:, -1] < 0.5)


def test_what_an_object_uncovers_is_not_known():
    """A square goes 6 to the right over a background that stands still."""
    backward, forward = np.zeros((2, 40, 60, 2), np.float32)
    forward[10:30, 10:30] = (6, 0)
    backward[10:30, 16:36] = (-6, 0)
    weights = find_weights(backward, forward)
    assert np.all(weights[10:30, 10:16] == 0)
    # Also a pixel beyond it, since what is hidden counts as less than nothing.
    assert np.all(weights[14:26, 9] < 0.5)
    assert np.all(weights[14:26, 20:32] == 1)
    assert np.all(weights[:7, :56] == 1)


def test_earlier_frames_speak_where_no_later_one_does():
    near, middle, far = np.float32([[1, 0.25, 0]]), np.float32([[1, 0.5, 0.75]]), np.ones((1, 3))
    shared = share_weights([near, middle, far])
    assert_allclose(shared[0], near)
    assert_allclose(shared[1], [[0, 0.25, 0.75]])
    assert_allclose(shared[2], [[0, 0.25, 0.25]])
    assert share_weights([]) == []


def test_cuts_are_where_hardly_anything_is_known():
    pictures = [skimage.data.astronaut()[:200, 100:400], skimage.data.chelsea()[:200, :300]]
    before, after = (picture.astype(np.float32) / 255 for picture in pictures)
    moved = before[3:, 4:], before[:-3, :-4]

    def weights(this, other):
        return find_weights(find_flow(this, other), find_flow(other, this))

    assert find_reliable_share(weights(*moved)) > 0.85 and not is_cut(weights(*moved))
    cut = weights(after, before)
    assert find_reliable_share(cut) < 0.1 and is_cut(cut)
    # A flash is none, though it isn't the same picture.
    assert not is_cut(weights(np.clip(1.6 * moved[0], 0, 1), moved[1]))
    assert find_reliable_share(weights(before, before)) > 0.97


def test_flow_files_of_another_program(tmp_path):
    flow = np.random.default_rng(0).normal(0, 5, (9, 14, 2)).astype(np.float32)
    path = tmp_path / "flow.flo"
    assert cv2.writeOpticalFlow(str(path), flow)
    assert_array_equal(load_flow(path), flow)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "flow.flo is not a flow file; expected a .flo file"),
        (b"P6 3 3 255", "flow.flo is not a flow file"),
        (struct.pack("<4sii2f", b"PIEH", 2, 1, 0, 0), "has 20 bytes for 2x1 pixels; expected 28"),
        (
            struct.pack("<4sii", b"PIEH", 0, 4),
            "has 12 bytes for 0x4 pixels; expected .* at least 1",
        ),
        (struct.pack("<4sii", b"PIEH", -2, -1), "has 12 bytes for -2x-1 pixels"),
        (struct.pack("<4sii2f", b"PIEH", 1, 1, 2e9, 0), "lacks the flow of some pixels"),
        (struct.pack("<4sii2f", b"PIEH", 1, 1, 0, np.nan), "lacks the flow of some pixels"),
    ],
)
def test_flow_files_that_are_none_are_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "flow.flo"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_flow(path)
    with pytest.raises(InputError, match="missing.flo can't be read"):
        load_flow(tmp_path / "missing.flo")


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_behind_its_border_a_picture_goes_on_mirrored(kernel):
    image = smooth_image(70, 90, seed=4)
    flow = np.zeros((70, 90, 2), np.float32)
    flow[..., 0], flow[..., 1] = 3, -2
    moved = warp(image, flow, kernel=kernel, outside=None)
    columns = [*range(3, 90), *(2 * (89 - INSET) - column for column in (90, 91, 92))]
    rows = [*(2 * INSET - row for row in (-2, -1)), *range(68)]
    assert_allclose(moved, image[rows][:, columns], atol=1e-5)
    # However far it leads, and however small the picture is, it stays within.
    far = warp(image[:3, :3], 1000 * flow[:3, :3], kernel=kernel, outside=None)
    assert np.all((far > -0.5) & (far < 1.5))


def test_what_comes_into_sight_begins_as_the_frame_in_the_colors_of_the_paint():
    """At a border, and in a wide area that isn't known; a narrow seam keeps the warped paint."""
    wide = 0.2 + 0.5 * smooth_image(96, 136, seed=5)
    tint = np.float32([0.2, -0.1, 0.05])
    frame, other = wide[:, 8:], wide[:, :-8]
    flow = np.zeros((96, 128, 2), np.float32)
    flow[..., 0] = 8
    weights = np.ones((96, 128), np.float32)
    weights[:, -8:], weights[20:60, 20:60], weights[80:82] = 0, 0, 0
    painted = other + tint
    painted[30:50, 38:58] = 0  # What was there before: with the flow, at columns 30 to 49.
    painted[80:82] += 0.1
    start = make_moved_start(painted, Motion(flow, weights, 0.0), content=frame)
    assert_allclose(start[:, -8:], (frame + tint)[:, -8:], atol=1e-3)
    assert_allclose(start[32:48, 32:48], (frame + tint)[32:48, 32:48], atol=0.02)
    assert_allclose(start[80:82, 70:110], (frame + tint + 0.1)[80:82, 70:110], atol=1e-3)
    assert_allclose(start[62:76, 70:110], (frame + tint)[62:76, 70:110], atol=1e-3)
