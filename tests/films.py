"""Films for tests, made with PyAV and with nothing of the package."""

from fractions import Fraction

import av
import numpy as np
from conftest import smooth_image

# K_R, K_B: ITU-R BT.709-6 and BT.601-7.
LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114)}


def moving_picture(num_frames=6, height=48, width=64, *, seed=5):
    """Make uint8[frames, height, width, 3] of a window that moves over a picture."""
    wide = smooth_image(height, width + 3 * num_frames, seed=seed)
    frames = [wide[:, 3 * i : 3 * i + width] for i in range(num_frames)]
    return np.rint(255 * np.stack(frames)).astype(np.uint8)


def to_samples(color, *, matrix=1, bits=8, full=False):
    """Turn one color in [0, 1] into Y', C_B, C_R by the formulas of the standards."""
    red, green, blue = color
    k_r, k_b = LUMA[matrix]
    y = k_r * red + (1 - k_r - k_b) * green + k_b * blue
    c_b, c_r = (blue - y) / (2 - 2 * k_b), (red - y) / (2 - 2 * k_r)
    step = 2 ** (bits - 8)
    if full:
        most = 2**bits - 1
        return [round(v) for v in (most * y, most * c_b + 128 * step, most * c_r + 128 * step)]
    return [round(step * v) for v in (16 + 219 * y, 128 + 224 * c_b, 128 + 224 * c_r)]


def flat_frame(samples, height, width, pixel_format):
    """Make a frame of one color."""
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, sample in zip(frame.planes, samples, strict=True):
        dtype = np.uint8 if max(samples) < 256 and "p1" not in pixel_format else np.uint16
        plane.update(
            np.full(plane.buffer_size // np.dtype(dtype).itemsize, sample, dtype).tobytes()
        )
    return frame


def write_film(
    path,
    frames,
    *,
    codec="libx264",
    pixel_format="yuv420p",
    times=None,
    tags=None,
    rotation=0,
    aspect=None,
    sound=None,
    container_options=None,
    **options,
):
    """Write a film of uint8[height, width, 3] or of PyAV's frames.

    Args:
      path: of the film.
      frames: pictures, or frames that have `pixel_format` already.
      codec: FFmpeg's name of an encoder.
      pixel_format: FFmpeg's name of it.
      times: of the frames, in milliseconds.
      tags: attributes of the codec's context, such as colorspace=1.
      rotation: in degrees against the clock, as the file's matrix has it.
      aspect: of a pixel.
      sound: encoder of a tone beside the frames.
      container_options: of the container.
      **options: of the encoder.
    """
    # Without it, Matroska's files have random numbers: equal films would be unequal files.
    container_options = {"fflags": "+bitexact", **(container_options or {})}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        first = frames[0]
        stream.height, stream.width = (
            first.shape[:2] if isinstance(first, np.ndarray) else (first.height, first.width)
        )
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.sample_aspect_ratio = aspect
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        tone = container.add_stream(sound, rate=44100, layout="stereo") if sound else None
        for number, picture in enumerate(frames):
            frame = picture
            if isinstance(picture, np.ndarray):
                # Without being told, FFmpeg takes BT.601's matrix, whatever the tags are.
                matrix = (tags or {}).get("colorspace", 6)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                    format=pixel_format, dst_colorspace=1 if matrix == 1 else 5, dst_color_range=1
                )
            frame.pts = times[number] if times else 40 * number
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            _add_tone(container, tone, seconds=len(frames) / 25)


def _add_tone(container, stream, *, seconds):
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(44100 * seconds)) / 44100)
    samples = np.stack([wave, wave]).astype(np.float32)
    if stream.codec_context.name.startswith("pcm"):
        samples, kind = (samples * 32767).astype(np.int16).T.reshape(1, -1), "s16"
        step = 2048
    else:
        kind, step = "fltp", 1024
    for start in range(0, samples.shape[1], step):
        chunk = np.ascontiguousarray(samples[:, start : start + step])
        frame = av.AudioFrame.from_ndarray(chunk, format=kind, layout="stereo")
        frame.sample_rate = 44100
        frame.pts = start * 1024 // step
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read_packets(path):
    """Return (seconds, bytes) of each packet of sound."""
    with av.open(str(path)) as container:
        packets = container.demux(*container.streams.audio)
        return [(float(p.pts * p.time_base), bytes(p)) for p in packets if p.dts is not None]
