"""Prepare a clip run: resolve and check its settings, and read what all frames share."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig, VideoConfig
from neuart_jax.engine.plan import Plan, make_plan
from neuart_jax.engine.profiling import phase
from neuart_jax.inputs.canvas import is_gray
from neuart_jax.inputs.pair import make_pair
from neuart_jax.inputs.regions.memberships import MaskSamples
from neuart_jax.io.clips.animation_writing import check_animation
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS, FilmPlan, check_film
from neuart_jax.io.clips.frames import Clip, Still
from neuart_jax.io.clips.opening import is_clip, open_clip
from neuart_jax.io.images import LoadedImage, load_image, resize_image, show_over_black
from neuart_jax.io.paths import resolve_place
from neuart_jax.runs.prepare import check_given, read_given
from neuart_jax.runs.video.motion import MotionFinder
from neuart_jax.runs.video.place import FilmPlace, find_film_place

logger = logging.getLogger(__name__)

# Number of frames, spread over a clip, whose colors represent all frames, and the approximate
# pixels of their longer side.
_NUM_SAMPLED, _SAMPLED_SIZE = 16, 256
_NUM_FITTED = 4
_CHUNK_BYTES = 1 << 20


class PreparedClip(NamedTuple):
    """A clip whose frames are known to be readable and whose settings are checked.

    Attributes:
      config: resolved configuration, with absolute paths.
      clip: source clip.
      paint: clip of the paint masks; None if they don't move.
      mask: clip of the content masks; None if they don't move.
      height: height of the painted frames, in pixels.
      width: width of the painted frames, in pixels.
      plan: plan of the frames; its content is the first frame.
      fitted: frames for fitting the network's filters, float32[height, width, 3] each.
      motion: finder of the motion between frames.
      place: destination of the film.
      film: encoding of the film; None for animations and without a film.
      digests: as in `prepare.Prepared`.
      notes: sentences for the user.
    """

    config: Config
    clip: Clip
    paint: Clip | None
    mask: Clip | None
    height: int
    width: int
    plan: Plan
    fitted: tuple[npt.NDArray[np.float32], ...]
    motion: MotionFinder
    place: FilmPlace
    film: FilmPlan | None
    digests: dict[str, str]
    notes: tuple[str, ...]

    @property
    def distances(self) -> tuple[int, ...]:
        """Distances to the reference frames, in frames, ascending."""
        return self.config.video.references or (1,)

    @property
    def masks_move(self) -> bool:
        """Whether any mask of the content differs from frame to frame."""
        return self.paint is not None or self.mask is not None

    def scale(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scale an image of the clip, or its transparency, to the size of the painted frames."""
        return _scale(image, self.height, self.width)

    def read_mask(self, mask: Still, number: int) -> npt.NDArray[np.float32]:
        """Read a frame's content mask, one of `mask`, as the soft masks of the clip's regions.

        Args:
          mask: the mask.
          number: number of the frame, from 0.

        Returns:
          float32[height, width, regions].
        """
        # Imported here, as in `pair`.
        from neuart_jax.inputs.regions.moving import read_regions

        regions, size = self.plan.pair.regions, (self.height, self.width)
        assert regions is not None and self.mask is not None, "there are masks"
        return read_regions(
            regions, mask.image, size, name=f"frame {number + 1} of {self.mask.name}"
        )


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
    _check_distances(config.video)
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
            scaled.append(_scale(still.image, height, width))
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


@phase("input")
def prepare_clip(config: Config, look: Look | None = None) -> PreparedClip:
    """Check everything about a clip run that needs no network, and read what all frames share.

    Args:
      config: configuration with `content` and `style` set.
      look: result of `look_at_clip`; None looks through the clip here.

    Raises:
      InputError: an argument is invalid.
    """
    look = look or look_at_clip(config)
    config = config.replace(references=_check_distances(config.video))
    place = find_film_place(config)
    clip, regions = look.clip, config.regions
    clips: dict[str, LoadedImage] = {}
    if look.masks is not None:
        clips[resolve_place(regions.content_mask, name="--content_mask")] = look.masks.first
    if look.painted is not None:
        clips[resolve_place(regions.paint_mask, name="--paint_mask")] = look.painted
    clips[resolve_place(config.images.content, name="--content")] = look.first

    def load(path: str, **options: Any) -> LoadedImage:
        return clips[path] if path in clips else load_image(path, **options)

    given = read_given(config, load=load)
    config, masks = given.config, given.masks
    if look.masks is not None:
        masks = masks._replace(content=look.masks.samples)
    height, width, _ = given.content.image.shape
    motion = MotionFinder(config.video.flow, distances=config.video.references, clip=clip)
    film = _plan_film(config, clip, place, height=height, width=width)
    styles = [style.image for style in given.styles]
    pair = make_pair(
        _mix_blends(config, len(styles)),
        given.content.image,
        styles,
        masks=masks,
        name="the first frame",
        palette=_find_palette(look, styles),
    )
    plan = make_plan(pair, num_references=len(config.video.references))
    _check_blend(plan)
    return PreparedClip(
        config=plan.config.replace(style_blend=config.losses.style_blend),
        clip=clip,
        paint=look.paint,
        mask=None if look.masks is None else look.masks.clip,
        height=height,
        width=width,
        plan=plan,
        fitted=look.fitted,
        motion=motion,
        place=place,
        film=film,
        digests=given.digests,
        notes=tuple(_describe(clip, height=height, width=width)),
    )


def _find_size(clip: Clip, *, size: int | None, enlarge: bool) -> tuple[int, int]:
    """Return the height and width of the painted frames; see `images.load_image`."""
    longest = max(clip.height, clip.width)
    if size is None or not (size < longest or enlarge):
        return clip.height, clip.width
    height, width = (max(1, round(side * size / longest)) for side in (clip.height, clip.width))
    return height, width


def _scale(image: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
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
        "image_name": (output.image_name != usual, "an image name; --output names the film"),
        "auto_masks": (config.regions.auto_masks > 0, "regions found anew in every frame"),
        "size_step": (images.size_step > 1, "rounded sizes, as all frames have one size"),
        "shard_rows": (compute.shard_rows > 1, "rows sharded over devices"),
        "num_processes": (jax.process_count() > 1, "work shared by several machines"),
    }
    for name, (is_there, what) in reasons.items():
        if is_there:
            raise InputError(
                f"--{name} came with a clip",
                expected=f"an image as --content, as clips have no {what}",
                remedy=f"leave --{name} out",
            )


def _check_distances(video: VideoConfig) -> tuple[int, ...]:
    distances = tuple(sorted(set(video.references))) or (1,)
    if distances[0] < 1:
        raise InputError(
            f"--references={','.join(map(str, video.references))}",
            expected="numbers of frames to go back, at least 1",
            remedy="write --references=1, or 1,10,20",
        )
    if video.passes > 1 and distances != (1,):
        raise InputError(
            f"--references={','.join(map(str, distances))} came with --passes={video.passes}",
            expected="1 alone, since passes hold a frame to its neighbor",
            remedy="leave one of the two out",
        )
    return distances


def _plan_film(
    config: Config, clip: Clip, place: FilmPlace, *, height: int, width: int
) -> FilmPlan | None:
    """Plan the film's encoding, and check that the film can be written."""
    name = place.film or Path(f"{place.extension}")
    if place.extension not in FILM_EXTENSIONS:
        check_animation(f"result{place.extension}", height=height, width=width)
        return None
    sound = clip.sound if config.video.sound else None
    plan = FilmPlan(height, width, clip.time_base, clip.frame_rate, place.codec, sound)
    shown = name if place.film else Path(f"result{place.extension}")
    try:
        check_film(shown, plan)
    except InputError as error:
        if sound is None:
            raise
        # Raises if the film is refused without its sound, too.
        check_film(shown, plan._replace(sound=None))
        raise InputError(
            f"{shown} can't hold the sound of {clip.name}",
            expected="sound of a kind that goes into such a file",
            remedy="add --nosound, or end --output in .mkv, which takes nearly all",
        ) from error
    return plan


def _spread(count: int, most: int) -> list[int]:
    """Return evenly spread frame numbers, including the first and the last."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most))})


def _find_palette(look: Look, styles: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return an image with the clip's colors; if any frame isn't gray, the image isn't either."""
    palette = look.colors
    # All frames of a clip are painted in color if any of them has color.
    if all(map(is_gray, (*styles, palette))):
        stride = max(1, look.clip.width // palette.shape[1])
        for frame in look.clip.frames():
            if not is_gray(frame.image):
                colored = frame.image[::stride, ::stride]
                return np.concatenate([palette, colored[:, : palette.shape[1]]])
    return palette


def _mix_blends(config: Config, num_styles: int) -> Config:
    """Return the settings with a positive share for every style that appears in the clip.

    Raises:
      InputError: the number of shares isn't that of the styles.
    """
    start, end = config.losses.style_blend, config.video.style_blend_end
    if not end:
        return config
    if num_styles < 2 or len(end) != num_styles or not sum(end):
        raise InputError(
            f"--style_blend_end={','.join(f'{share:g}' for share in end)} came with {num_styles} "
            f"style{'' if num_styles == 1 else 's'}",
            expected="several styles, and a share for each, not all of them 0",
            remedy="give one share for every style, or leave it out",
        )
    start = start or (1.0,) * len(end)
    if len(start) != num_styles or not sum(start):
        return config  # `make_plan` refuses the shares.
    shares = zip(start, end, strict=True)
    return config.replace(style_blend=[a / sum(start) + b / sum(end) for a, b in shares])


def _check_blend(plan: Plan) -> None:
    """Check that every style has a loss term of its own if the shares change over the clip."""
    if not plan.config.video.style_blend_end:
        return
    has_regions = plan.pair.regions is not None
    if has_regions or "style" in {term.name for term in plan.terms}:
        raise InputError(
            "--style_blend_end came with "
            + ("regions or transparency" if has_regions else "--style_mix=blended"),
            expected="several styles, each with a loss of its own everywhere",
            remedy="leave it out, or leave out masks and --style_mix",
        )


def _describe(clip: Clip, *, height: int, width: int) -> Iterator[str]:
    seconds = f"{float(clip.end):.2f} seconds"
    size = f"{clip.width}x{clip.height}"
    is_scaled = (height, width) != (clip.height, clip.width)
    painted = f", painted at {width}x{height} (--size=0 keeps its own)" if is_scaled else ""
    yield f"{clip.name}: {clip.num_frames} frames of {size}, {seconds}{painted}."
