"""Prepare a clip run: resolve and check its settings, and read what all frames share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError, counted
from neuart_jax.engine.plan import Plan, make_plan
from neuart_jax.engine.profiling import phase
from neuart_jax.inputs.canvas import is_gray
from neuart_jax.inputs.pair import make_pair
from neuart_jax.io.clips.animation_writing import check_animation
from neuart_jax.io.clips.film_writing import FILM_EXTENSIONS, FilmPlan, check_film
from neuart_jax.io.clips.frames import Clip, Still
from neuart_jax.io.images import LoadedImage, load_image
from neuart_jax.io.paths import resolve_place
from neuart_jax.runs.prepare import read_given
from neuart_jax.runs.video.look import Look, check_distances, look_at_clip, scale_frame
from neuart_jax.runs.video.motion import MotionFinder
from neuart_jax.runs.video.place import FilmPlace, find_film_place


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
        return scale_frame(image, self.height, self.width)

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
    config = config.replace(references=check_distances(config.video))
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
        spared=given.spared,
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
            expected="sound in a format that such a file supports",
            remedy="add --nosound, or use an --output in .mkv, which supports nearly all formats",
        ) from error
    return plan


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
            f"--style_blend_end={','.join(f'{share:g}' for share in end)} came with "
            f"{counted(num_styles, 'style')}",
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
            expected="several opaque styles for the whole image, with --style_mix=separate",
            remedy="leave out --style_blend_end, or the masks and --style_mix",
        )


def _describe(clip: Clip, *, height: int, width: int) -> Iterator[str]:
    seconds = f"{float(clip.end):.2f} seconds"
    size = f"{clip.width}x{clip.height}"
    is_scaled = (height, width) != (clip.height, clip.width)
    painted = f", painted at {width}x{height} (--size=0 keeps its own)" if is_scaled else ""
    yield f"{clip.name}: {clip.num_frames} frames of {size}, {seconds}{painted}."
