"""Clips are read as they are shown: upright, in their colors, at their times, or not at all."""

import builtins
import itertools
import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from films import LUMA, flat_frame, moving_picture, to_samples, write_film
from PIL import Image

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.frame_files import FrameFolder
from neuart_jax.io.clips.opening import is_clip, open_clip
from neuart_jax.io.images import save_image

LEVEL = 1 / 255
COLORS = [(0.8, 0.2, 0.4), (0, 0, 0), (1, 1, 1), (0, 1, 0), (0.1, 0.3, 0.9), (0.5, 0.5, 0.5)]


def images(clip, **arguments):
    return np.stack([frame.image for frame in clip.frames(**arguments)])


@pytest.fixture
def film(tmp_path):
    """A lossless film in RGB, so that what is read is known to the last bit."""
    pictures = moving_picture()
    path = tmp_path / "film.mkv"
    frames = [
        av.VideoFrame.from_ndarray(p, format="rgb24").reformat(format="bgr0") for p in pictures
    ]
    write_film(path, frames, codec="ffv1", pixel_format="bgr0")
    return path, pictures


@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv444p10le", 10)])
def test_colors_are_those_of_the_standards(tmp_path, matrix, full, pixel_format, bits):
    path = tmp_path / "film.mkv"
    frames = [
        flat_frame(to_samples(c, matrix=matrix, bits=bits, full=full), 16, 16, pixel_format)
        for c in COLORS
    ]
    tags = {"colorspace": matrix, "color_range": 1 + full}
    write_film(path, frames, codec="ffv1", pixel_format=pixel_format, tags=tags)
    # Half a level of each of three samples is up to 1.5 levels of a color.
    tolerance = (1.6 if bits == 8 else 0.4) * LEVEL
    for image, color in zip(images(open_clip(path)), COLORS, strict=True):
        np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), atol=tolerance)


@pytest.mark.parametrize(("size", "matrix"), [((480, 640), 6), ((720, 64), 1), ((64, 1280), 1)])
def test_without_tags_the_size_tells_the_matrix(tmp_path, size, matrix):
    path = tmp_path / "film.mkv"
    frames = [flat_frame(to_samples(COLORS[0], matrix=matrix), *size, "yuv420p") for _ in range(2)]
    write_film(path, frames, codec="ffv1")
    image = images(open_clip(path))[0]
    np.testing.assert_allclose(image, np.broadcast_to(COLORS[0], image.shape), atol=1.6 * LEVEL)


def test_rgb_comes_back_bit_for_bit(film):
    path, pictures = film
    clip = open_clip(path)
    assert (clip.height, clip.width, clip.num_frames) == (48, 64, 6)
    np.testing.assert_array_equal(np.rint(255 * images(clip)), pictures)
    assert images(clip).dtype == np.float32


def test_colors_that_four_pixels_share_lie_where_h264_has_them(tmp_path):
    """On every second column, and between two rows; a ramp comes out as one, in its place."""
    height, width = 32, 48
    frame = av.VideoFrame(width, height, "yuv420p")
    rows, columns = np.mgrid[: height // 2, : width // 2]
    planes = [np.full((height, width), 128), 96 + 2 * columns, 100 + 2 * rows]
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded.tobytes())
    path = tmp_path / "film.mkv"
    write_film(path, [frame] * 2, codec="ffv1", tags={"colorspace": 1, "color_range": 1})
    image = images(open_clip(path))[0]
    y, x = np.mgrid[:height, :width]
    luma, blue, red = (128 - 16) / 219, (96 + x - 128) / 224, (100 + y - 0.5 - 128) / 224
    # Where nothing is clipped; ends of the ramps bend.
    inside = slice(3, -4), slice(3, -4)
    expected_red, expected_blue = luma + 2 * (1 - 0.2126) * red, luma + 2 * (1 - 0.0722) * blue
    np.testing.assert_allclose(image[inside][..., 0], expected_red[inside], atol=1e-5)
    np.testing.assert_allclose(image[inside][..., 2], expected_blue[inside], atol=1e-5)


def test_times_of_a_rate_that_varies(tmp_path):
    times = [0, 40, 80, 200, 210, 243, 260]
    path = tmp_path / "film.mp4"
    write_film(path, list(moving_picture(7)), times=times)
    clip = open_clip(path)
    assert clip.times == tuple(Fraction(time, 1000) for time in times)
    shown = [(frame.time, frame.duration) for frame in clip.frames()]
    assert [time for time, _ in shown] == list(clip.times)
    assert all(a + b == c for (a, b), (c, _) in itertools.pairwise(shown))
    assert sum(shown[-1]) == clip.end
    assert all((time / clip.time_base).denominator == 1 for time in (*clip.times, clip.end))


def test_frames_that_an_edited_film_does_not_show_are_none_of_it(tmp_path):
    """Those before the time 0 are stored in it, and left out by its edit list."""
    path = tmp_path / "film.mp4"
    pictures = moving_picture(12)
    write_film(path, list(pictures), times=[40 * i - 160 for i in range(12)], bf="0", g="4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 12
    clip = open_clip(path)
    assert clip.times == tuple(Fraction(i, 25) for i in range(8))
    assert np.abs(images(clip)[0] - pictures[4] / 255).mean() < 8 * LEVEL


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_film_is_read_upright(tmp_path, rotation):
    pictures = moving_picture(3)
    path = tmp_path / "film.mp4"
    write_film(path, list(pictures), pixel_format="yuv444p", crf="0", rotation=rotation)
    clip = open_clip(path)
    expected = np.rot90(pictures, rotation // 90, axes=(1, 2))
    assert (clip.height, clip.width) == expected.shape[1:3]
    assert np.abs(images(clip) - expected / 255).mean() < 3 * LEVEL


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "film.mkv"
    write_film(path, list(moving_picture(2)), aspect=Fraction(4, 3))
    clip = open_clip(path)
    assert (clip.height, clip.width) == (48, 85)
    assert images(clip).shape == (2, 48, 85, 3)


def test_a_part_of_a_film(film):
    path, pictures = film
    # 0.04 seconds a frame.
    part = open_clip(path, start=0.04, end=0.2, every=2)
    assert part.times == (0, Fraction(2, 25))
    assert part.end == Fraction(4, 25)
    np.testing.assert_array_equal(np.rint(255 * images(part)), pictures[[1, 3]])
    np.testing.assert_array_equal(images(part, first=1), images(part)[1:])
    # A decimal means itself, whatever the double next to it.
    assert open_clip(path, start=0.12).num_frames == 3


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"start": 3}, "the part from 3 seconds can't be taken from .*within its 0.240 seconds"),
        ({"start": 0.2, "end": 0.1}, "the part from 0.2 to 0.1 seconds"),
        ({"start": float("nan")}, "the part from nan seconds"),
        ({"start": -1}, "the part from -1 seconds"),
        ({"every": 0}, "every=0 came for .*; expected 1 for all"),
        ({"every": 9}, "has 1 frame in the chosen part, of 6 in all; expected a clip"),
        ({"start": 0.21}, "has no frames in the chosen part, of 6 in all"),
    ],
)
def test_a_part_that_is_none_is_a_sentence(film, part, sentence):
    with pytest.raises(InputError, match=sentence):
        open_clip(film[0], **part)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path, transfer, name):
    path = tmp_path / "film.mkv"
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9}
    frames = [flat_frame((400, 500, 600), 16, 16, "yuv420p10le")] * 2
    write_film(path, frames, codec="ffv1", pixel_format="yuv420p10le", tags=tags)
    with pytest.raises(InputError, match=rf"film.mkv is HDR \({name}\); expected .*SDR"):
        open_clip(path)


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.6])
def test_a_film_that_is_cut_off_is_a_sentence(tmp_path, extension, share):
    path = tmp_path / f"film{extension}"
    options = {"movflags": "faststart"} if extension == ".mp4" else {}
    write_film(path, list(moving_picture(40)), container_options=options, g="8")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="film.m.* expected a (complete|film)"):
        open_clip(path)


def test_a_film_whose_frames_are_damaged_is_a_sentence(tmp_path):
    path = tmp_path / "film.mp4"
    write_film(path, list(moving_picture(40)))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match="film.mp4 is damaged .*; expected a complete film; get"):
        open_clip(path)


def test_a_size_that_changes_in_the_middle_is_a_sentence(tmp_path):
    parts = []
    for number, size in enumerate([(48, 64), (64, 48)]):
        part = tmp_path / f"part{number}.h264"
        write_film(part, list(moving_picture(4, *size)))
        parts.append(part.read_bytes())
    path = tmp_path / "film.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="change from 64x48 to 48x64 pixels, 0.16 seconds in"):
        open_clip(path)
    path.write_bytes(parts[0])
    assert open_clip(path).times == tuple(Fraction(i, 25) for i in range(4))


def test_what_has_no_moving_picture_is_a_sentence(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InputError, match="sound.mp4 has no video stream; expected a film"):
        open_clip(path)
    (tmp_path / "text.mp4").write_text("nothing of that kind")
    with pytest.raises(InputError, match="text.mp4 can't be read as a film"):
        open_clip(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="missing.mp4 can't be read"):
        open_clip(tmp_path / "missing.mp4")


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.gif"])
def test_a_single_picture_is_no_clip(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(moving_picture(1)[0]).save(path)
    assert not is_clip(path)
    with pytest.raises(InputError, match="has 1 frame; expected .* at least 2 frames; give it as"):
        open_clip(path)


def test_without_the_extra_a_sentence_names_it(film, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name.partition(".")[0] == "av":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r'need .* PyAV.*pip install "neuart_jax\[video\]"'):
        open_clip(film[0])


def test_a_film_that_shrinks_while_it_is_read_is_a_sentence(film, tmp_path):
    path, pictures = film
    clip = open_clip(path)
    frames = [
        av.VideoFrame.from_ndarray(p, format="rgb24").reformat(format="bgr0") for p in pictures
    ]
    write_film(path, frames[:3], codec="ffv1", pixel_format="bgr0")
    with pytest.raises(InputError, match="changed since it was opened: frame 4 of 6"):
        images(clip)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_need_no_extra(tmp_path, monkeypatch, kind):
    pictures = [Image.fromarray(p) for p in moving_picture(4)]
    path = tmp_path / f"animation.{kind}"
    durations = [40, 100, 70, 500]
    options = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options
    )
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert is_clip(path)
    clip = open_clip(path)
    expected = (0, *itertools.accumulate(Fraction(d, 1000) for d in durations))
    assert (*clip.times, clip.end) == expected
    tolerance = 12 if kind == "gif" else 0  # Of 256 colors, on average.
    difference = np.rint(255 * images(clip)) - np.stack([np.asarray(p) for p in pictures])
    assert np.abs(difference).mean() <= tolerance
    np.testing.assert_array_equal(images(clip, first=2), images(clip)[2:])


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_what_is_transparent_in_an_animation_is_over_white(tmp_path, kind):
    pixels = np.zeros((2, 8, 8, 4), np.uint8)
    pixels[0, :4], pixels[1, 4:] = (200, 0, 0, 255), (0, 0, 200, 255)
    first, second = map(Image.fromarray, pixels)
    path = tmp_path / f"animation.{kind}"
    first.save(path, save_all=True, append_images=[second], duration=100, disposal=2)
    one, two = open_clip(path).frames()
    np.testing.assert_allclose(one.image[0, 0], (200 / 255, 0, 0), atol=1e-6)
    np.testing.assert_array_equal(one.image[4:], 1)
    np.testing.assert_array_equal(one.alpha[4:], 0)
    np.testing.assert_array_equal(two.alpha[:4], 0)


def test_frames_of_no_time_are_shown_as_browsers_do(tmp_path):
    pictures = [Image.fromarray(p) for p in moving_picture(3)]
    path = tmp_path / "animation.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=0)
    assert open_clip(path).times == (0, Fraction(1, 10), Fraction(1, 5))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_that_is_cut_off_is_a_sentence(tmp_path, kind):
    pictures = [Image.fromarray(p) for p in moving_picture(6)]
    path = tmp_path / f"animation.{kind}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"animation.{kind} can't be|animation.{kind} is not"):
        open_clip(path)


def test_pictures_of_a_folder_are_frames_in_the_order_of_their_numbers(tmp_path, caplog):
    pictures = moving_picture(12)
    for number, picture in enumerate(pictures, 1):
        save_image(tmp_path / f"frame_{number}.png", picture / 255)
    (tmp_path / "notes.txt").touch()
    clip = open_clip(tmp_path, frame_rate="30000/1001")
    np.testing.assert_array_equal(np.rint(255 * images(clip)), pictures)
    assert clip.times[2] == Fraction(2002, 30000)
    assert not is_clip(tmp_path)
    backwards = sorted(tmp_path.glob("*.png"), reverse=True)
    assert open_clip(backwards).files == tuple(backwards)
    (tmp_path / "frame_4.png").unlink()
    with caplog.at_level(logging.WARNING, "neuart_jax"):
        assert open_clip(tmp_path).num_frames == 11
    assert "1 frame numbers between 1 and 12 are missing, beginning with 4." in caplog.text


def test_frames_go_into_numbered_files_and_come_back(tmp_path):
    pictures = moving_picture(12)
    alpha = np.linspace(0.2, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    folder = FrameFolder(tmp_path)
    for picture in pictures[:9]:
        folder.add(picture / 255)
    # As a run goes on.
    folder = FrameFolder(tmp_path, first=9)
    paths = [folder.add(picture / 255, alpha) for picture in pictures[9:]]
    assert [path.name for path in paths] == [f"frame_{i:06d}.png" for i in (10, 11, 12)]
    clip = open_clip(tmp_path)
    np.testing.assert_array_equal(np.rint(255 * images(clip))[:9], pictures[:9])
    np.testing.assert_allclose(next(clip.frames(first=11)).alpha, alpha, atol=LEVEL)


@pytest.mark.parametrize("frame_rate", [0, -2, float("nan"), "fast"])
def test_frame_rates_that_are_none(tmp_path, frame_rate):
    for number in range(2):
        save_image(tmp_path / f"{number}.png", moving_picture(1)[0] / 255)
    with pytest.raises(InputError, match=f"frame_rate={frame_rate} came for"):
        open_clip(tmp_path, frame_rate=frame_rate)


def test_pictures_of_several_sizes_are_a_sentence(tmp_path):
    save_image(tmp_path / "1.png", np.zeros((8, 9, 3)))
    save_image(tmp_path / "2.png", np.zeros((9, 8, 3)))
    with pytest.raises(InputError, match="2.png has 8x9 pixels, and .*1.png has 9x8; expected"):
        open_clip(tmp_path)
    with pytest.raises(InputError, match="0 images came as a clip; expected at least 2"):
        open_clip([])


def test_what_moves(tmp_path, film):
    assert is_clip(film[0])
    write_film(tmp_path / "a.mp4", list(moving_picture(2)))
    write_film(tmp_path / "a.mov", list(moving_picture(2)))
    assert is_clip(tmp_path / "a.mp4") and is_clip(tmp_path / "a.mov")
    assert not is_clip(tmp_path / "missing.mp4")
