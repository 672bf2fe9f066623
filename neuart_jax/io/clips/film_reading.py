"""Read the frames of MP4, MOV, MKV, WebM and other FFmpeg formats as upright sRGB images.

Films store luma and color differences, with one of several matrices and one of two ranges; tags
specify both, or they follow from the size. Decoded values are interpreted as sRGB, just as players
interpret BT.709.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuart_jax.config.errors import InputError
from neuart_jax.io.clips.frames import Still, Survey
from neuart_jax.io.clips.luma import BT601, BT709, MATRICES, to_rgb
from neuart_jax.io.clips.pyav import accurate_scaling, load_pyav, name_file, telling
from neuart_jax.io.decoding import MAX_PIXELS, Float32
from neuart_jax.io.files import PathLike
from neuart_jax.io.images import resize_image, unpack_metadata

# Code points of ITU-T H.273: transfer characteristics, table 3; matrices, table 4.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_RGB, _UNSPECIFIED = 0, 2
_LIMITED, _FULL = 1, 2
# Lines and columns from which untagged films are HD, that is, use BT.709.
_HD_LINES, _HD_COLUMNS = 720, 1280
_NUM_COLORS, _BYTE = 3, 8
# A side that every subsampling factor divides.
_LARGE = 64
# Seconds, and share of the duration, by which a complete container may outlast its last frame.
_LEAST_MISSING, _SHARE_MISSING = Fraction(1, 2), Fraction(1, 50)


def survey_film(path: Path) -> Survey:
    """Decode a film once to find the times of its frames, and to check that all are readable.

    Raises:
      InputError: the film is damaged or truncated, has no video stream, is HDR, or changes its
        size.
    """
    av = load_pyav(path)
    times: list[Fraction] = []
    size: tuple[int, int] | None = None
    end = Fraction(0)
    with _opened(av, path) as container:
        stream = _find_pictures(container, path)
        for frame, time, duration in _decode(av, container, stream, path):
            _check_frame(frame, path)
            shape = _upright_size(frame, stream)
            if size is not None and shape != size:
                raise InputError(
                    f"the frames of {path} change from {size[1]}x{size[0]} to "
                    f"{shape[1]}x{shape[0]} pixels, {float(time):.2f} seconds in",
                    expected="one size",
                    remedy="cut the film there, or scale it to one size",
                )
            size = shape
            times.append(time)
            end = max(end, time + duration)
        time_base = Fraction(stream.time_base)
        has_sound = bool(container.streams.audio)
    if size is None:
        raise InputError(
            f"{path} has a video stream without any frame",
            expected="a complete film",
            remedy="get it again",
        )
    if any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
        raise InputError(
            f"the frames of {path} don't follow one another in time",
            expected="times that grow from frame to frame",
            remedy="write it anew with another program",
        )
    return Survey(*size, tuple(times), end, time_base, has_sound)


def read_film(path: Path, numbers: Sequence[int]) -> Iterator[Still]:
    """Yield some frames of a film.

    Args:
      path: path of a film that was surveyed.
      numbers: numbers of the frames, ascending.
    """
    av = load_pyav(path)
    wanted = iter(numbers)
    number = next(wanted, None)
    with _opened(av, path) as container:
        stream = _find_pictures(container, path)
        for index, (frame, _, _) in enumerate(_decode(av, container, stream, path)):
            if number is None:
                return
            if index == number:
                yield _to_still(av, frame, stream)
                number = next(wanted, None)


def load_film_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `film_writing.writing_film` stored in a film; empty without any.

    Raises:
      InputError: the file can't be read as a film.
    """
    av = load_pyav(path)
    with _opened(av, path) as container:
        # Matroska's names of fields are in capital letters.
        fields = {name.lower(): text for name, text in container.metadata.items()}
    return unpack_metadata(fields.get("comment", ""))


def _opened(av: Any, path: Path) -> Any:
    with telling(
        av,
        f"{path} can't be read as a film",
        expected="a complete MP4, MOV, MKV or WebM",
        remedy="check the name, get it again, or convert it",
    ):
        return av.open(name_file(path), "r")


def _find_pictures(container: Any, path: PathLike) -> Any:
    """Return the first video stream of a film, skipping cover images."""
    moving = [
        stream
        for stream in container.streams.video
        if not (stream.disposition & type(stream.disposition).attached_pic)
    ]
    if not moving:
        raise InputError(
            f"{path} has no video stream",
            expected="a film with a video stream",
            remedy="give another file",
        )
    stream = moving[0]
    if stream.codec_context is None:
        raise InputError(
            f"the video stream of {path} is of a kind that isn't known",
            expected="a film that FFmpeg decodes",
            remedy="convert it to H.264",
        )
    return stream


def _decode(av: Any, container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Yield all frames of a stream with their times and durations, in seconds."""
    # By default, decoders conceal damaged frames with made-up ones.
    stream.codec_context.options = {"err_detect": "explode"}
    stream.thread_type = "AUTO"
    base = Fraction(stream.time_base)
    usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    time = duration = None
    telling_damage = telling(
        av,
        f"{path} is damaged",
        expected="a complete film",
        remedy="get it again, or convert it with a program that passes over the damage",
    )
    with telling_damage:
        last, num_packets = Fraction(0), 0
        for packet in container.demux():
            if packet.is_corrupt:
                raise ValueError("it is cut off, or parts of it are missing")
            if packet.dts is not None:
                last = max(last, (packet.dts + (packet.duration or 0)) * Fraction(packet.time_base))
            if packet.stream_index != stream.index:
                continue
            num_packets += packet.size > 0
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ValueError("a frame is broken")
                if frame.pts is not None:
                    time = frame.pts * base
                else:  # The stream has no timestamps.
                    time = Fraction(0) if time is None else time + duration
                duration = frame.duration * base if frame.duration else usual
                yield frame, time, duration
        _check_end(container, stream, last, num_packets)


def _check_end(container: Any, stream: Any, last: Fraction, num_packets: int) -> None:
    """Raise ValueError if a container's packets end long before its announced end."""
    # Not `stream.frames`, which also counts frames that an edit list hides.
    num_announced = len(stream.index_entries)
    if num_packets < num_announced:
        raise ValueError(f"it ends after {num_packets} of {num_announced} frames")
    if container.duration is None:
        return
    announced = Fraction(container.duration + (container.start_time or 0), 1_000_000)
    if announced - last > max(_LEAST_MISSING, announced * _SHARE_MISSING):
        raise ValueError(f"it ends after {float(last):.1f} of {float(announced):.1f} seconds")


def _upright_size(frame: Any, stream: Any) -> tuple[int, int]:
    height, width = frame.height, _square_width(frame, stream)
    return (width, height) if frame.rotation % 180 else (height, width)


def _square_width(frame: Any, stream: Any) -> int:
    """Return the width of a frame after scaling to square pixels."""
    aspect = stream.sample_aspect_ratio
    return frame.width if not aspect else max(1, round(frame.width * Fraction(aspect)))


def _check_frame(frame: Any, path: Path) -> None:
    if frame.height * frame.width > MAX_PIXELS:
        raise InputError(
            f"{path} has frames of {frame.width}x{frame.height} pixels",
            expected=f"at most {MAX_PIXELS:,} pixels",
            remedy="scale it down first",
        )
    if frame.color_trc in _HDR_TRANSFERS:
        raise InputError(
            f"{path} is HDR ({_HDR_TRANSFERS[frame.color_trc]})",
            expected="a film in the range that images have (SDR, BT.709 or BT.601)",
            remedy="convert it to SDR with a program that maps its tones",
        )
    if frame.colorspace not in (*MATRICES, _RGB, _UNSPECIFIED):
        raise InputError(
            f"{path} has colors of a kind that isn't known (matrix {frame.colorspace})",
            expected="BT.709, BT.601, BT.2020 or RGB",
            remedy="convert it to BT.709",
        )


def _to_still(av: Any, frame: Any, stream: Any) -> Still:
    has_matrix = not frame.format.is_rgb and len(frame.format.components) >= _NUM_COLORS
    if has_matrix:
        color, alpha = _read_luma(frame, is_jpeg=stream.codec_context.name == "mjpeg")
    else:
        color, alpha = _read_rgb(av, frame)
    width = _square_width(frame, stream)
    if width != frame.width:
        color = resize_image(color, frame.height, width)
        alpha = None if alpha is None else resize_image(alpha, frame.height, width)
    color = _turn(color, frame.rotation)
    if alpha is None or np.all(alpha == 1):
        return Still(color)
    alpha = _turn(alpha, frame.rotation)
    return Still(color * alpha[..., None] + (1 - alpha[..., None]), alpha)


def _read_luma(frame: Any, *, is_jpeg: bool) -> tuple[Float32, Float32 | None]:
    # FFmpeg is only used to arrange samples in planes: its matrices are off by up to two levels,
    # its conversions of bit depth by one, and it places chroma samples incorrectly.
    bits = frame.format.components[0].bits
    alpha = "a" * _has_alpha(frame)
    is_full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    same = {"colorspace": BT709, "color_range": _FULL if is_full else _LIMITED}
    laid_out = frame.reformat(
        format=f"yuv{alpha}{_find_sampling(frame)}p" + (f"{bits}le" if bits > _BYTE else ""),
        **{f"{end}_{what}": value for what, value in same.items() for end in ("src", "dst")},
    )
    planes = [_read_plane(plane, bits) for plane in laid_out.planes]
    color = to_rgb(
        planes[:3],
        matrix=frame.colorspace if frame.colorspace in MATRICES else _guess_matrix(frame),
        bits=bits,
        full=is_full,
        centered=is_jpeg,
    )
    return color, planes[3].astype(np.float32) / np.float32((1 << bits) - 1) if alpha else None


def _find_sampling(frame: Any) -> str:
    """Return the chroma subsampling as FFmpeg's three digits, such as "420"."""
    columns, rows = (
        _LARGE // many(_LARGE) for many in (frame.format.chroma_width, frame.format.chroma_height)
    )
    return {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440"}.get((columns, rows), "444")


def _read_rgb(av: Any, frame: Any) -> tuple[Float32, Float32 | None]:
    """Read frames without a matrix: RGB, palettes, gray."""
    alpha = "a" * _has_alpha(frame)
    is_limited = frame.color_range == _LIMITED and not frame.format.is_rgb
    # FFmpeg's conversion from 8 bits to 16 is off by up to one level of 8 bits.
    is_deep = max(part.bits for part in frame.format.components) > _BYTE
    kind, most = ("64le" if alpha else "48le", 65535) if is_deep else ("" if alpha else "24", 255)
    whole = frame.reformat(
        format=f"rgb{alpha}{kind}",
        interpolation=accurate_scaling(av),
        src_color_range=_LIMITED if is_limited else _FULL,
        dst_color_range=_FULL,
    )
    samples = whole.to_ndarray().astype(np.float32) / np.float32(most)
    return samples[..., :3], samples[..., 3] if alpha else None


def _has_alpha(frame: Any) -> bool:
    # Any color of a palette may be transparent.
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _read_plane(plane: Any, bits: int) -> npt.NDArray[np.unsignedinteger]:
    dtype = np.dtype(np.uint8 if bits <= _BYTE else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, : plane.width]


def _turn(values: Float32, rotation: int) -> Float32:
    # The rotation is counterclockwise. Always a copy, as FFmpeg reuses its memory.
    return np.array(np.rot90(values, rotation // 90), np.float32, order="C")


def _guess_matrix(frame: Any) -> int:
    is_hd = frame.height >= _HD_LINES or frame.width >= _HD_COLUMNS
    return BT709 if is_hd else BT601
