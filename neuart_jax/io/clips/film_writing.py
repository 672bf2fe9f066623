"""Write frames as MP4, MOV or MKV films, with the times and the sound of their source clip.

The default is H.264 in 4:2:0, converted to BT.709 and tagged so, which every player shows with the
right colors. Painted textures take far more bits than camera footage.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
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
from neuart_jax.io.images import pack_metadata

logger = logging.getLogger(__name__)

_LIMITED = 1
# Fixed, so that the encoder's output doesn't depend on the machine's number of cores.
_NUM_THREADS = 4
# As in 30000/1001.
_MOST_PARTS = 1001
# FFmpeg's names of containers, and the extensions of those with the index at the end by default:
# films can only play while loading if the index comes first.
_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_INDEX_LAST = (".mp4", ".mov")


# Blue, green, red and an unused byte for each pixel.
_RGB = "bgr0"


class FilmCodec(NamedTuple):
    """Encoding of a film's frames.

    Attributes:
      encoder: FFmpeg's name of the encoder.
      pixel_format: FFmpeg's name of the pixel format.
      bits: bits per sample.
      rows: rows of luma per row of chroma.
      columns: columns of luma per column of chroma.
      options: options of the encoder.
      extensions: extensions of the containers that can hold the codec.
    """

    encoder: str
    pixel_format: str
    bits: int
    rows: int
    columns: int
    options: dict[str, str]
    extensions: tuple[str, ...]


FILM_CODECS = {
    # No B-frames: if frames are reordered, MP4 loses the duration of the last one.
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
    # Lossless, in RGB: decoded frames equal those of PNG files.
    "ffv1": FilmCodec("ffv1", _RGB, 8, 1, 1, {"level": "3", "slicecrc": "1"}, (".mkv",)),
}
"""Codecs of films, by their names in the settings."""

FILM_EXTENSIONS = tuple(_CONTAINERS)
"""File extensions of the films that can be written."""


class FilmPlan(NamedTuple):
    """Properties of a film that are fixed before its first frame.

    Attributes:
      height: height of the frames, in pixels.
      width: width of the frames, in pixels.
      time_base: unit of time, in seconds, of which all times are multiples.
      frame_rate: mean number of frames per second.
      codec: key of `FILM_CODECS`.
      sound: sound to copy; None for a silent film.
      metadata: strings to store in the file, read back by `film_reading.load_film_metadata`: JSON
        in the comment, which all of these containers have.
    """

    height: int
    width: int
    time_base: Fraction
    frame_rate: Fraction
    codec: str = "h264"
    sound: Sound | None = None
    metadata: Mapping[str, str] = {}


class FilmWriter:
    """An open film, to which frames are added in order.

    Args:
      av: the module PyAV.
      container: PyAV's output container, opened.
      plan: see `FilmPlan`.
      sound: opened file of `FilmPlan.sound`.
      name: name of the film in messages.
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
          time: time at which the frame is shown, in seconds since the first frame.
          duration: duration of the frame, in seconds.

        Raises:
          InputError: the frame can't be encoded or written.
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
        """Write the frames that the encoder still holds, and the rest of the sound.

        Raises:
          InputError: the frames or the sound can't be encoded or written.
        """
        with _telling(self._av, self._name):
            self._mux(self._stream.encode(None))
            if self._sound:
                self._sound.copy_until(None)

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            # Encoders drop durations, and that of the last frame doesn't follow from a next one.
            base = Fraction(packet.time_base)
            ticks = self._durations.pop(round(packet.pts * base / self._plan.time_base), None)
            if ticks is not None:
                packet.duration = round(ticks * self._plan.time_base / base)
            self._container.mux(packet)

    def _add_pictures(self) -> Any:
        codec, plan = self._codec, self._plan
        # Players only display this rate; every frame has its own time.
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
        # Some encoders read the tags of the frames, others those of the stream.
        frame.color_primaries = frame.color_trc = BT709
        if codec.pixel_format != _RGB:
            frame.colorspace, frame.color_range = BT709, _LIMITED
        for plane, values in zip(frame.planes, planes, strict=True):
            _fill(plane, values)
        return frame


class _SoundCopy:
    """Copies sound from one file to another, packet by packet, without decoding."""

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
        """Copy packets up to a time, in seconds since the first frame; None copies the rest."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            # The packet that flushes a stream has no timestamp.
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
        # In a whole file, sound before the first frame is the encoder's priming.
        is_late_enough = sound.is_whole_start or begins >= sound.start
        return is_late_enough and (sound.end is None or begins < sound.end)


def check_film(path: PathLike, plan: FilmPlan) -> None:
    """Check that a film can be written: encode two gray frames and the beginning of the sound.

    Args:
      path: path of the film; nothing is written there.
      plan: plan of the film.

    Raises:
      InputError: the codec is unknown or doesn't go with the extension, or the encoder or the
        container doesn't accept these frames or this sound.
    """
    codec, extension = _find_codec(plan.codec), Path(path).suffix.lower()
    if extension not in codec.extensions:
        raise InputError(
            f"{path} can't hold the codec {plan.codec}",
            expected=f"a name that ends in {' or '.join(codec.extensions)}",
            remedy="change the extension, or choose another --film_codec",
        )
    height, width = plan.height, plan.width
    if height % codec.rows or width % codec.columns:
        logger.info(
            "%s will have %dx%d pixels, because %s needs even sides: the last row or column is "
            "repeated.",
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
    """Write a film atomically: the path refers to it only once it is complete and on the disk.

    Args:
      path: path of the film; `check_film` finds most errors in advance.
      plan: plan of the film.

    Yields:
      The writer, to which frames are added.

    Raises:
      InputError: the film can't be written.
    """
    with name_atomically(path) as temporary, _writing(temporary, path, plan) as film:
        yield film


@contextlib.contextmanager
def _writing(file: PathLike, name: PathLike, plan: FilmPlan) -> Iterator[FilmWriter]:
    av = load_pyav(name)
    extension = Path(name).suffix.lower()
    # No random identifiers, so that equal frames give equal files.
    options = {"fflags": "+bitexact"}
    if extension in _INDEX_LAST:
        options["movflags"] = "+faststart"
        # Ticks per second for the start of the sound: milliseconds would be inaccurate.
        options["movie_timescale"] = "90000"
    with contextlib.ExitStack() as stack:
        with _telling(av, name):
            sound = plan.sound and stack.enter_context(av.open(name_file(plan.sound.path), "r"))
            container = av.open(
                name_file(file), "w", format=_CONTAINERS[extension], options=options
            )
        try:
            with _telling(av, name):
                if plan.metadata:
                    container.metadata["comment"] = pack_metadata(plan.metadata)
                film = FilmWriter(av, container, plan, sound, name=name)
            yield film
            film.finish()
        except BaseException:
            # The unfinished film is discarded, and so are errors on closing it.
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
    # FFmpeg may pad rows.
    rows = np.frombuffer(plane, values.dtype).reshape(
        plane.height, plane.line_size // values.dtype.itemsize
    )
    rows[:, : values.shape[1]] = values
