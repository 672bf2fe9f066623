"""A look through a clip and its masks, independent of settings that are still unresolved."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig, VideoConfig
from neuart_jax.engine.profiling import phase
from neuart_jax.inputs.regions.memberships import MaskSamples
from neuart_jax.io.clips.frames import Clip
from neuart_jax.io.clips.opening import is_clip, open_clip
from neuart_jax.io.images import LoadedImage, resize_image, show_over_black
from neuart_jax.io.paths import resolve_place
from neuart_jax.runs.prepare import check_given

# Number of frames, spread over a clip, whose colors represent all frames, and the approximate
# pixels of their longer side.
_NUM_SAMPLED, _SAMPLED_SIZE = 16, 256
_NUM_FITTED = 4
_CHUNK_BYTES = 1 << 20


class _MovingMasks(NamedTuple):
    """Content masks that move.

    Attributes:
      clip: clip of the masks.
      samples: masks that show every region.
      first: mask of the first frame, with the digest of the clip's files.
    """

    clip: Clip
    samples: MaskSamples
    first: LoadedImage


class Look(NamedTuple):
    """Data from one look through a clip, independent of settings that are still unresolved.

    Attributes:
      clip: clip with the frames that the settings select.
      first: first frame at the size of the painted frames, with the digest of the clip's files.
      colors: subsampled frames, spread over the clip, as one image.
      fitted: as in `PreparedClip`.
      paint: as in `PreparedClip`.
      painted: maximum of sampled paint masks, as one mask, with the digest of their files; None if
        they don't move.
      masks: content masks; None if they don't move.
    """

    clip: Clip
    first: LoadedImage
    colors: npt.NDArray[np.float32]
    fitted: tuple[npt.NDArray[np.float32], ...]
    paint: Clip | None
    painted: LoadedImage | None
    masks: _MovingMasks | None


@phase("input")
def look_at_clip(config: Config) -> Look:
    """Refuse settings that clips don't have, and look through a clip.

    Args:
      config: configuration with `content` and `style` set.

    Raises:
      InputError: a setting or the clip can't be used.
    """
    check_given(config)
    _refuse_others(config)
    check_distances(config.video)
    images, regions = config.images, config.regions
    clip = _open(images.content, config.video, name="content")
    height, width = _find_size(clip, size=images.size or None, enlarge=images.enlarge)
    stride = max(1, max(clip.height, clip.width) // _SAMPLED_SIZE)
    numbers = _spread(clip.num_frames, _NUM_SAMPLED)
    kept = {numbers[place] for place in _spread(len(numbers), _NUM_FITTED)}
    colors, scaled = [], []
    for number, still in zip(numbers, clip.stills(numbers), strict=True):
        colors.append(still.image[::stride, ::stride])
        if number in kept:
            scaled.append(scale_frame(still.image, height, width))
    first = LoadedImage(scaled[0], None, _digest(clip.files), (clip.height, clip.width))
    paint = painted = None
    if _is_clip(regions.paint_mask, name="paint_mask"):
        paint = _open_masks(regions.paint_mask, config.video, clip, name="paint_mask")
        white = np.max([show_over_black(*still) for still in paint.stills(numbers)], axis=0)
        painted = LoadedImage(white, None, _digest(paint.files), (paint.height, paint.width))
    masks = None
    if _is_clip(regions.content_mask, name="content_mask"):
        masks = _look_at_masks(config, clip, numbers, stride)
    return Look(clip, first, np.concatenate(colors), tuple(scaled), paint, painted, masks)


def _look_at_masks(config: Config, clip: Clip, numbers: Sequence[int], stride: int) -> _MovingMasks:
    """Read the content masks of all frames, to settle and check the regions of the clip.

    Args:
      config: configuration whose content mask is a clip.
      clip: clip of the frames.
      numbers: numbers of evenly spread frames.
      stride: stride of the pixels that are looked at.
    """
    # Imported here, as in `pair`.
    from neuart_jax.inputs.regions.matching import check_mask_size
    from neuart_jax.inputs.regions.moving import find_showing, join_colors, sample_mask

    named = config.regions.regions
    masks = _open_masks(config.regions.content_mask, config.video, clip, name="content_mask")
    size = clip.height, clip.width
    check_mask_size((masks.height, masks.width), size, name=masks.name)
    height, width = (-(-side // stride) for side in size)

    def look() -> Iterator[npt.NDArray[np.float32]]:
        for frame in masks.frames():
            yield sample_mask(frame.image, height, width)

    colors = tuple(named) or join_colors(look())
    # All of them, as a region may come in at any frame.
    showing = find_showing(look(), colors, name=masks.name)
    numbers = sorted({*numbers, *showing})
    frames = [still.image[::stride, ::stride] for still in clip.stills(numbers)]
    chosen = [sample_mask(still.image, height, width) for still in masks.stills(numbers)]
    samples = MaskSamples(np.stack(chosen), np.stack(frames), colors, bool(named))
    first = LoadedImage(chosen[0], None, _digest(masks.files), (masks.height, masks.width))
    return _MovingMasks(masks, samples, first)


def _open_masks(path: str, video: VideoConfig, clip: Clip, *, name: str) -> Clip:
    """Open a clip of masks, and check that it has as many frames as the clip they are for."""
    masks = _open(path, video, name=name)
    if masks.num_frames != clip.num_frames:
        raise InputError(
            f"{masks.name} has {masks.num_frames} frames, and {clip.name} has {clip.num_frames}",
            expected="as many masks as frames",
            remedy="make one for every frame, or give one image for all of them",
        )
    return masks


def _open(path: str, video: VideoConfig, *, name: str) -> Clip:
    """Open the part of a clip that the settings select."""
    return open_clip(
        resolve_place(path, name=f"--{name}"),
        start=video.start,
        end=video.end,
        every=video.every,
        frame_rate=video.frame_rate,
    )


def _is_clip(path: str, *, name: str) -> bool:
    if not path:
        return False
    place = Path(resolve_place(path, name=f"--{name}"))
    return place.is_dir() or is_clip(place)


def _find_size(clip: Clip, *, size: int | None, enlarge: bool) -> tuple[int, int]:
    """Return the height and width of the painted frames; see `images.load_image`."""
    longest = max(clip.height, clip.width)
    if size is None or not (size < longest or enlarge):
        return clip.height, clip.width
    height, width = (max(1, round(side * size / longest)) for side in (clip.height, clip.width))
    return height, width


def scale_frame(image: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Scale an image of a clip, or its transparency, to the size of the painted frames.

    Args:
      image: float32[height', width'] or float32[height', width', 3] in [0, 1].
      height: height of the painted frames, in pixels.
      width: width of the painted frames, in pixels.
    """
    return image if image.shape[:2] == (height, width) else resize_image(image, height, width)


def _digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or of the digests of several files."""

    def digest(path: Path) -> "hashlib._Hash":
        found = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
        return found

    if len(files) == 1:
        return digest(files[0]).hexdigest()
    whole = hashlib.sha256()
    for path in files:
        whole.update(digest(path).digest())
    return whole.hexdigest()


def _refuse_others(config: Config) -> None:
    """Refuse settings that have no meaning for clips, or that clips don't support yet."""
    output, compute, images = config.output, config.compute, config.images
    usual = OutputConfig().image_name
    reasons = {
        "animation": (bool(output.animation), "progress films"),
        "save_every": (output.save_every > 0, "images of the progress"),
        "save_at": (bool(output.save_at), "images of the progress"),
        "print_losses": (output.print_losses, "lines of losses, which are in metrics.jsonl"),
        "image_name": (output.image_name != usual, "an image name, as --output names the film"),
        "auto_masks": (config.regions.auto_masks > 0, "regions found anew in every frame"),
        "size_step": (images.size_step > 1, "rounded sizes: all frames have one size"),
        "shard_rows": (compute.shard_rows > 1, "rows sharded over devices"),
        "num_processes": (jax.process_count() > 1, "work shared by several machines"),
    }
    for name, (is_there, what) in reasons.items():
        if is_there:
            raise InputError(
                f"--{name} came with a clip",
                expected=f"a single image as --content (clips have no {what})",
                remedy=f"leave --{name} out",
            )


def check_distances(video: VideoConfig) -> tuple[int, ...]:
    """Return the distances to the reference frames, ascending.

    Raises:
      InputError: a distance isn't positive, or several passes have others than 1.
    """
    distances = tuple(sorted(set(video.references))) or (1,)
    if distances[0] < 1:
        raise InputError(
            f"--references={','.join(map(str, video.references))}",
            expected="how many frames to go back, each number at least 1",
            remedy="write --references=1 or --references=1,10,20",
        )
    if video.passes > 1 and distances != (1,):
        raise InputError(
            f"--references={','.join(map(str, distances))} came with --passes={video.passes}",
            expected="--references=1, since several passes hold a frame to its neighbors only",
            remedy="leave one of the two out",
        )
    return distances


def _spread(count: int, most: int) -> list[int]:
    """Return evenly spread frame numbers, including the first and the last."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most))})
