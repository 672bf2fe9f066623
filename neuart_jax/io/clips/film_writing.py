"""Films: frames into MP4, MOV or MKV, with the times and the sound of the clip they were made of.

H.264 in 4:2:0 and BT.709, whose tags are set and whose numbers are converted, is what every player
shows as it was meant. Painted texture takes far more bits than what cameras see.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.frames import Sound
from neuart_jax.io.clips.luma import BT709, to_planes
from neuart_jax.io.clips.pyav import load_pyav, name_file, telling
from neuart_jax.io.decoding import quantize
from neuart_jax.io.files import PathLike, name_atomically

logger = logging.getLogger(__name__)

_LIMITED = 1
# What an encoder makes must not depend on how many cores a machine has.
_NUM_THREADS = 4
# As in 30000/1001.
_MOST_PARTS = 1001
# FFmpeg's names of containers, and those whose index would come last if nothing were said: it has
# to come first for a film to play while it is loaded.
_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_INDEX_LAST = (".mp4", ".mov")


# Blue, green, red and a byte of nothing for each pixel.
_RGB = "bgr0"


class FilmCodec(NamedTuple):
    """How pictures are encoded.

    Attributes:
      encoder: FFmpeg's name of it.
      pixel_format: FFmpeg's name of it.
      bits: of a sample.
      rows: of luma for one of color.
      columns: the same.
      options: of the encoder.
      extensions: of the files that it may be in.
    """

    encoder: str
    pixel_format: str
    bits: int
    rows: int
    columns: int
    options: dict[str, str]
    extensions: tuple[str, ...]


FILM_CODECS = {
    # Where frames are stored in another order than shown, MP4 doesn't keep how long the last is.
    "h264": FilmCodec(
        *("libx264", "yuv420p", 8, 2, 2),
        {"crf": "17", "preset": "medium", "bf": "0"},
        (".mp4", ".mov", ".mkv"),
    ),
    # Profile 3 is "HQ".
    "prores": FilmCodec(
        *("prores_ks", "yuv422p10le", 10, 1, 2),
        {"profile": "3", "vendor": "apl0"},
        (".mov", ".mkv"),
    ),
    # Lossless, in RGB: a picture comes back as a PNG of it would.
    "ffv1": FilmCodec("ffv1", _RGB, 8, 1, 1, {"level": "3", "slicecrc": "1"}, (".mkv",)),
}
"""What a film can be written with, by the name that settings have for it."""

FILM_EXTENSIONS = tuple(_CONTAINERS)
"""What the names of films end in that are written."""


class FilmPlan(NamedTuple):
    """All that is known of a film before its first frame.

    Attributes:
      height: of the frames, in pixels.
      width: the same.
      time_base: seconds of which all times are multiples.
      frame_rate: frames a second, on average.
      codec: key of `FILM_CODECS`.
      sound: what is copied beside the frames.
    """

    height: int
    width: int
    time_base: Fraction
    frame_rate: Fraction
    codec: str = "h264"
    sound: Sound | None = None


class FilmWriter:
    """An open film, to which frames are added in their order.

    Args:
      av: PyAV.
      container: an output of PyAV's, opened.
      plan: see `FilmPlan`.
      sound: the opened file of `FilmPlan.sound`.
      name: of the film, for messages.
    """

    def __init__(
        self, av: Any, container: Any, plan: FilmPlan, sound: Any, *, name: PathLike
    ) -> None:
        self._av, self._container, self._plan, self._name = av, container, plan, name
        self._codec = FILM_CODECS[plan.codec]
        self._stream = self._add_pictures()
        self._durations: dict[int, int] = {}
        self._sound = _SoundCopy(container, sound, plan.sound) if plan.sound else None

    def add(self, image: npt.ArrayLike, time: Fraction, duration: Fraction) -> None:
        """Add a frame.

        Args:
          image: float[height, width, 3], sRGB in [0, 1].
          time: seconds since the first frame at which it is shown.
          duration: seconds for which it is.

        Raises:
          InputError: the encoder or the disk refuses it.
        """
        frame = self._make_frame(np.asarray(image, np.float32))
        base = self._plan.time_base
        frame.pts, frame.time_base = round(time / base), base
        frame.duration = self._durations[frame.pts] = round((time + duration) / base) - frame.pts
        with _telling(self._av, self._name):
            if self._sound:
                self._sound.copy_until(time)
            self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what is still on its way.

        Raises:
          InputError: the encoder or the disk refuses it.
        """
        with _telling(self._av, self._name):
            self._mux(self._stream.encode(None))
            if self._sound:
                self._sound.copy_until(None)

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            # Encoders forget how long a frame is shown, and the last one is followed by none.
            base = Fraction(packet.time_base)
            ticks = self._durations.pop(round(packet.pts * base / self._plan.time_base), None)
            if ticks is not None:
                packet.duration = round(ticks * self._plan.time_base / base)
            self._container.mux(packet)

    def _add_pictures(self) -> Any:
        codec, plan = self._codec, self._plan
        # What players show as the rate; the times are each frame's own.
        rate = max(plan.frame_rate.limit_denominator(_MOST_PARTS), Fraction(1, _MOST_PARTS))
        stream = self._container.add_stream(codec.encoder, rate=rate, options=codec.options)
        stream.height, stream.width = self._padded_size()
        stream.pix_fmt = codec.pixel_format
        stream.time_base = stream.codec_context.time_base = plan.time_base
        context = stream.codec_context
        context.thread_count = _NUM_THREADS
        context.color_primaries = context.color_trc = BT709
        if codec.pixel_format != _RGB:
            context.colorspace, context.color_range = BT709, _LIMITED
        return stream

    def _padded_size(self) -> tuple[int, int]:
        codec, plan = self._codec, self._plan
        return plan.height + -plan.height % codec.rows, plan.width + -plan.width % codec.columns

    def _make_frame(self, image: npt.NDArray[np.float32]) -> Any:
        plan, codec = self._plan, self._codec
        if image.shape != (plan.height, plan.width, 3):
            raise ValueError(f"a frame is {image.shape}, expected {(plan.height, plan.width, 3)}")
        height, width = self._padded_size()
        edges = ((0, height - plan.height), (0, width - plan.width), (0, 0))
        image = np.clip(np.pad(image, edges, mode="edge"), 0, 1)
        if codec.pixel_format == _RGB:
            pixels = np.pad(quantize(image, np.uint8)[..., ::-1], ((0, 0), (0, 0), (0, 1)))
            planes = [pixels.reshape(height, 4 * width)]
        else:
            planes = list(
                to_planes(
                    image,
                    matrix=BT709,
                    bits=codec.bits,
                    rows=codec.rows,
                    columns=codec.columns,
                )
            )
        frame = self._av.VideoFrame(width, height, codec.pixel_format)
        # Encoders differ in whether they ask the frames or the stream.
        frame.color_primaries = frame.color_trc = BT709
        if codec.pixel_format != _RGB:
            frame.colorspace, frame.color_range = BT709, _LIMITED
        for plane, values in zip(frame.planes, planes, strict=True):
            _fill(plane, values)
        return frame


class _SoundCopy:
    """Packets of sound on their way from one file to another, bit for bit."""

    def __init__(self, container: Any, source: Any, sound: Sound) -> None:
        self._container, self._sound = container, sound
        self._streams = {
            stream.index: container.add_stream_from_template(stream)
            for stream in source.streams.audio
        }
        for stream in source.streams.audio:
            self._streams[stream.index].metadata.update(stream.metadata)
        self._packets = source.demux(*source.streams.audio)
        self._waiting: Any = None

    def copy_until(self, time: Fraction | None) -> None:
        """Copy what begins up to a time, in seconds since the first frame; None copies the rest."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            # What ends a stream has no time.
            if packet.dts is None:
                continue
            base = Fraction(packet.time_base)
            begins = (packet.dts if packet.pts is None else packet.pts) * base
            if time is not None and begins - self._sound.start > time:
                self._waiting = packet
                return
            if not self._is_within(begins):
                continue
            shift = round(self._sound.start / base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts -= shift
            packet.stream = self._streams[packet.stream.index]
            self._container.mux(packet)

    def _is_within(self, begins: Fraction) -> bool:
        sound = self._sound
        # What comes before the pictures of a whole file is the encoder's run-up.
        is_late_enough = sound.is_whole_start or begins >= sound.start
        return is_late_enough and (sound.end is None or begins < sound.end)


def check_film(path: PathLike, plan: FilmPlan) -> None:
    """Encode two gray frames, with the beginning of the sound, to see that a film can be written.

    Args:
      path: what the film is to be called; nothing is written there.
      plan: of the film.

    Raises:
      InputError: there is no such codec, it doesn't go with the extension, or the encoder or the
        container refuses these frames or this sound.
    """
    codec, extension = _find_codec(plan.codec), Path(path).suffix.lower()
    if extension not in codec.extensions:
        raise InputError(
            f"{path} came with the codec {plan.codec}",
            expected=f"a name that ends in {' or '.join(codec.extensions)}",
            remedy="change its end, or the codec",
        )
    height, width = plan.height, plan.width
    if height % codec.rows or width % codec.columns:
        logger.info(
            "%s gets %dx%d pixels, since %s takes even sides only: the last row or column is there "
            "twice.",
            *(path, width + -width % codec.columns, height + -height % codec.rows, plan.codec),
        )
    gray = np.full((height, width, 3), 0.5, np.float32)
    step = 1 / plan.frame_rate
    with (
        tempfile.TemporaryDirectory() as folder,
        _writing(Path(folder) / "probe", path, plan) as film,
    ):
        for number in range(2):
            film.add(gray, number * step, step)


@contextlib.contextmanager
def writing_film(path: PathLike, plan: FilmPlan) -> Iterator[FilmWriter]:
    """Write a film that takes its name only once it is complete and on the disk.

    Args:
      path: see `check_film`, which says before the work what else is refused here.
      plan: of the film.

    Yields:
      What takes the frames.

    Raises:
      InputError: it can't be written.
    """
    with name_atomically(path) as temporary, _writing(temporary, path, plan) as film:
        yield film


@contextlib.contextmanager
def _writing(file: PathLike, name: PathLike, plan: FilmPlan) -> Iterator[FilmWriter]:
    av = load_pyav(name)
    extension = Path(name).suffix.lower()
    # Without names that are made by chance: equal frames are equal files.
    options = {"fflags": "+bitexact"}
    if extension in _INDEX_LAST:
        options["movflags"] = "+faststart"
        # Ticks a second of where sound begins: by milliseconds it would be off.
        options["movie_timescale"] = "90000"
    with contextlib.ExitStack() as stack:
        with _telling(av, name):
            sound = plan.sound and stack.enter_context(av.open(name_file(plan.sound.path), "r"))
            container = av.open(
                name_file(file), "w", format=_CONTAINERS[extension], options=options
            )
        try:
            with _telling(av, name):
                film = FilmWriter(av, container, plan, sound, name=name)
            yield film
            film.finish()
        except BaseException:
            # What it would write at its end is of no use any more.
            with contextlib.suppress(Exception):
                container.close()
            raise
        with _telling(av, name):
            container.close()


def _telling(av: Any, name: PathLike) -> Any:
    return telling(
        av,
        f"{name} can't be written",
        expected="a film that can be encoded, and room for it",
        remedy="take another size, another codec, a name that ends in .mkv, leave the sound out, "
        "or free some space",
    )


def _find_codec(name: str) -> FilmCodec:
    if name not in FILM_CODECS:
        raise InputError(
            f"{name} came as a film's codec",
            expected=f"one of {', '.join(FILM_CODECS)}",
            remedy="leave it out for h264, which plays everywhere",
        )
    return FILM_CODECS[name]


def _fill(plane: Any, values: npt.NDArray[Any]) -> None:
    # Rows of FFmpeg's may be longer than the picture's.
    rows = np.frombuffer(plane, values.dtype).reshape(
        plane.height, plane.line_size // values.dtype.itemsize
    )
    rows[:, : values.shape[1]] = values
