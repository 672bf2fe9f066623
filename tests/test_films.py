"""Films are written as they are to be shown, all of them or nothing."""

import logging
import signal
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from films import moving_picture, read_packets, write_film

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.film_writing import FILM_CODECS, FilmPlan, check_film, writing_film
from neuart_jax.io.clips.opening import open_clip

LEVEL = 1 / 255
SECOND = Fraction(1)
CODECS = [(name, ext) for name, codec in FILM_CODECS.items() for ext in codec.extensions]


def plan_of(pictures, codec="h264", *, base=Fraction(1, 25), rate=Fraction(25), sound=None):
    return FilmPlan(*pictures.shape[1:3], base, rate, codec, sound)


def write(path, pictures, plan, times=None):
    times = times or [i / plan.frame_rate for i in range(len(pictures))]
    ends = [*times[1:], times[-1] + 1 / plan.frame_rate]
    with writing_film(path, plan) as film:
        for picture, time, end in zip(pictures, times, ends, strict=True):
            film.add(picture / 255, time, end - time)


def copy(clip, path, codec="h264"):
    """Write a clip as a film."""
    plan = FilmPlan(clip.height, clip.width, clip.time_base, clip.frame_rate, codec, clip.sound)
    check_film(path, plan)
    with writing_film(path, plan) as film:
        for frame in clip.frames():
            film.add(frame.image, frame.time, frame.duration)


def luma_error(path, pictures):
    """Return the mean error of luma, in levels: of color H.264 keeps a quarter of the samples."""
    difference = (images(path) - pictures / 255) @ np.array([0.2126, 0.7152, 0.0722])
    return np.abs(difference).mean() / LEVEL


def images(path):
    return np.stack([frame.image for frame in open_clip(path).frames()])


@pytest.mark.parametrize(("codec", "extension"), CODECS)
def test_times_and_colors_come_back(tmp_path, codec, extension):
    """Two seconds for the last frame, and a step of a hundredth between two."""
    pictures = moving_picture(6)
    times = [Fraction(i, 100) for i in (0, 4, 8, 30, 31, 60)]
    path = tmp_path / f"film{extension}"
    plan = plan_of(pictures, codec, base=Fraction(1, 100), rate=Fraction(6, 3))
    check_film(path, plan)
    with writing_film(path, plan) as film:
        for picture, time, end in zip(pictures, times, [*times[1:], 2.6 * SECOND], strict=True):
            film.add(picture / 255, time, Fraction(end) - time)
    clip = open_clip(path)
    assert clip.times == tuple(times)
    assert clip.end == Fraction(26, 10)
    assert luma_error(path, pictures) < {"h264": 2, "prores": 1.5, "ffv1": 1e-4}[codec]


@pytest.mark.parametrize("rate", [Fraction(1, 5000), Fraction(30000, 1001), Fraction(240)])
def test_rates_from_slides_to_slow_motion(tmp_path, rate):
    pictures = moving_picture(3)
    path = tmp_path / "film.mp4"
    write(path, pictures, plan_of(pictures, base=1 / rate, rate=rate))
    clip = open_clip(path)
    assert clip.times == (0, 1 / rate, 2 / rate)
    assert clip.end == 3 / rate


def test_flat_colors_are_exact_and_tagged(tmp_path):
    """An untagged film or one of another matrix would be off by up to 40 levels."""
    colors = np.array([(200, 30, 90), (20, 220, 40), (30, 60, 230), (0, 0, 0), (255, 255, 255)])
    pictures = np.broadcast_to(colors[:, None, None], (5, 32, 32, 3))
    path = tmp_path / "film.mp4"
    write(path, pictures, plan_of(pictures))
    assert np.abs(images(path) - pictures / 255).max() <= 2 * LEVEL
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        for owner in (frame, context):
            tags = owner.colorspace, owner.color_primaries, owner.color_trc, owner.color_range
            assert tags == (1, 1, 1, 1)
    # Whoever converts by the tags gets the same.
    rgb = frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
    np.testing.assert_allclose(rgb[16, 16], colors[0], atol=2)


def test_another_program_reads_what_was_written(tmp_path):
    pictures = moving_picture(5, 96, 128)
    gray = np.repeat(pictures.mean(axis=3, keepdims=True), 3, axis=3)
    path = tmp_path / "film.mp4"
    write(path, gray, plan_of(gray))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    for expected in gray:
        found, frame = capture.read()
        assert found
        assert np.abs(frame - expected).mean() < 3


def test_a_film_plays_while_it_is_loaded(tmp_path):
    pictures = moving_picture(3)
    for extension in (".mp4", ".mov"):
        path = tmp_path / f"film{extension}"
        write(path, pictures, plan_of(pictures))
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("codec", "extension"), CODECS)
def test_equal_frames_are_equal_files(tmp_path, codec, extension):
    pictures = moving_picture(4)
    paths = [tmp_path / f"{name}{extension}" for name in "ab"]
    for path in paths:
        write(path, pictures, plan_of(pictures, codec))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("size", [(33, 51), (1, 1)])
@pytest.mark.parametrize(("codec", "rows", "columns"), [("h264", 1, 1), ("prores", 0, 1)])
def test_odd_sides_are_padded_with_their_edge_and_told(
    tmp_path, caplog, codec, rows, columns, size
):
    pictures = moving_picture(3, *size) if min(size) > 1 else np.full((3, 1, 1, 3), 77)
    path = tmp_path / "film.mov"
    with caplog.at_level(logging.INFO, "neuart_jax"):
        check_film(path, plan_of(pictures, codec))
    height, width = size[0] + rows, size[1] + columns
    assert (
        f"{path} will have {width}x{height} pixels, because {codec} needs even sides" in caplog.text
    )
    write(path, pictures, plan_of(pictures, codec))
    expected = np.pad(pictures, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    assert luma_error(path, expected) < 3


def test_sound_is_copied_packet_for_packet(tmp_path):
    source = tmp_path / "source.mp4"
    write_film(source, list(moving_picture(30)), sound="aac")
    packets = read_packets(source)
    assert len(packets) > 50
    for name in ("copy.mp4", "copy.mov", "copy.mkv"):
        copy(open_clip(source), tmp_path / name)
        copied = read_packets(tmp_path / name)
        assert [content for _, content in copied] == [content for _, content in packets]
    # Matroska begins at zero, and has milliseconds.
    times = [time for time, _ in read_packets(tmp_path / "copy.mp4")]
    np.testing.assert_allclose(times, [time for time, _ in packets])


@pytest.mark.parametrize("every", [1, 3])
def test_sound_is_cut_like_the_pictures(tmp_path, every):
    source, path = tmp_path / "source.mp4", tmp_path / "part.mp4"
    write_film(source, list(moving_picture(30)), sound="aac")
    copy(open_clip(source, start=0.4, end=0.9, every=every), path)
    packets = [(time, content) for time, content in read_packets(source) if 0.4 <= time < 0.9]
    copied = read_packets(path)
    assert [content for _, content in copied] == [content for _, content in packets]
    expected = [time - 0.4 for time, _ in packets]
    np.testing.assert_allclose([time for time, _ in copied], expected, atol=2e-5)
    part = open_clip(path)
    assert part.end == Fraction(1, 2)
    assert part.times == tuple(Fraction(i, 25) for i in range(0, 13, every))


def test_sound_that_does_not_fit_is_a_sentence_before_the_work(tmp_path):
    source = tmp_path / "source.mkv"
    write_film(source, list(moving_picture(4)), sound="wavpack")
    clip = open_clip(source)
    plan = plan_of(moving_picture(1), sound=clip.sound)
    with pytest.raises(
        InputError, match="film.mp4 can't be written .*'wavpack'.*or leave|sound out"
    ):
        check_film(tmp_path / "film.mp4", plan)
    check_film(tmp_path / "film.mkv", plan)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "codec", "size", "sentence"),
    [
        ("film.mp4", "h265", (16, 16), "h265 came as a film's codec; expected one of h264, prores"),
        ("film.mp4", "ffv1", (16, 16), "film.mp4 can't hold the codec ffv1; expected .* in .mkv;"),
        ("film.avi", "h264", (16, 16), "film.avi can't hold the codec h264; expected .* .mp4 or"),
        ("film.mp4", "h264", (16, 17000), r"film.mp4 can't be written \(.*\); expected a film"),
    ],
)
def test_what_can_not_be_written_is_a_sentence_before_the_work(
    tmp_path, name, codec, size, sentence
):
    plan = FilmPlan(*size, Fraction(1, 25), Fraction(25), codec)
    with pytest.raises(InputError, match=sentence):
        check_film(tmp_path / name, plan)
    assert not list(tmp_path.iterdir())


def test_half_a_film_never_has_the_name(tmp_path):
    pictures = moving_picture(3)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"what was there before")
    with pytest.raises(KeyError), writing_film(path, plan_of(pictures)) as film:
        film.add(pictures[0] / 255, Fraction(0), Fraction(1, 25))
        raise KeyError
    with (
        pytest.raises(ValueError, match="a frame is"),
        writing_film(path, plan_of(pictures)) as film,
    ):
        film.add(np.zeros((3, 3, 3)), Fraction(0), Fraction(1, 25))
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    assert path.read_bytes() == b"what was there before"
    write(path, pictures, plan_of(pictures))
    assert open_clip(path).num_frames == 3
    with (
        pytest.raises(InputError, match="film.mp4 can't be written"),
        writing_film(tmp_path / "missing" / "film.mp4", plan_of(pictures)),
    ):
        pass


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(tmp_path, name):
    """As the system says it of a file that may not grow, too."""
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(InputError, match=f"{name} can't be written .*room"):
            write(tmp_path / name, noise, plan_of(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_names_that_ffmpeg_would_read_as_something_else(tmp_path, monkeypatch):
    pictures = moving_picture(3)
    monkeypatch.chdir(tmp_path)
    for name in ("http:film.mp4", "-y.mp4", "film%03d.mp4", "фильм 1.mp4"):
        write(name, pictures, plan_of(pictures))
        assert open_clip(name).num_frames == 3
