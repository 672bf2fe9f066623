"""Frames painted in sequence: their order, their initial images and their reference frames.

Source: Ruder, Dosovitskiy & Brox 2016, "Artistic style transfer for videos", arXiv 1604.08610,
sections 4.1 to 4.4.
Differs from source: areas that come into sight start from the frame in the colors of the paint
nearby, not from one color or wrong paint; references are continued by their mirror image; later
frames have fewer steps and no coarser scales; with several passes, the temporal term counts from
the second pass on.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from neuart_jax.engine.binding import StyleTargets
from neuart_jax.engine.pairs import Heritage, stylize_bound
from neuart_jax.engine.plan import Plan
from neuart_jax.engine.result import Progress
from neuart_jax.engine.state import RunState
from neuart_jax.engine.step import Status
from neuart_jax.inputs.motion.consistency import share_weights
from neuart_jax.inputs.pair import Pair, finish, with_frame
from neuart_jax.io.decoding import Float32
from neuart_jax.objective.temporal import References
from neuart_jax.runs.checkpoints import Checkpoints
from neuart_jax.runs.record import Record
from neuart_jax.runs.video.film_progress import FilmReporter
from neuart_jax.runs.video.frames import STATE_NAME, Line, PaintedFrames
from neuart_jax.runs.video.motion import Motion, find_error, make_moved_start, move
from neuart_jax.runs.video.prepare import PreparedClip
from neuart_jax.runs.video.sources import Source, follow
from neuart_jax.runs.video.units import Unit, plan_units

# Steps without progress after which a frame that continues from another one is complete; see
# `RunConfig.stop_patience`.
_PATIENCE = 5
# Largest difference of any value for which a frame reuses the painting of an earlier one: one or
# two levels of 8 bits, as cameras and codecs leave them in still scenes.
_SAME = 2.5 / 255


class _Work(NamedTuple):
    """A painted frame; fields as in `Result`."""

    image: Float32
    status: str
    num_steps: int
    num_evaluations: int
    losses: dict[str, float]


class Painter:
    """Paints consecutive frames of a clip, beginning with the first missing one.

    Args:
      frames: numbers of the frames: the whole clip, or shots, which need nothing of other shots.
      prepared: prepared clip.
      plan: plan that is bound to the network.
      painted: folder of the painted frames.
      record: record of the run.
    """

    def __init__(
        self,
        frames: range,
        prepared: PreparedClip,
        plan: Plan,
        *,
        painted: PaintedFrames,
        record: Record,
    ) -> None:
        self._frames, self._prepared, self._plan = frames, prepared, plan
        self._painted, self._record = painted, record
        config = prepared.config
        self._config = config
        self._later_plan = plan.at_full_size(
            num_steps=config.video.frame_steps,
            stop_patience=config.run.stop_patience or _PATIENCE,
        )
        self._num_frames = prepared.clip.num_frames
        self.units = plan_units(frames, config.video.passes, num_frames=self._num_frames)
        self._params: Any = None
        self._reporter: FilmReporter
        self._style_targets: StyleTargets = {}
        self._images: dict[int, Float32] = {}
        self._shown: dict[int, Float32] = {}
        self._seen: tuple[int, Float32] | None = None

    def find_first(self) -> int:
        """Return how many units are painted already, and drop the figures of all others."""
        painted = [unit.number in self._painted.lines for unit in self.units]
        for place in range([*painted, False].index(False), -1, -1):
            if self._can_begin(place):
                self._painted.forget(unit.number for unit in self.units[place:])
                return place
        raise AssertionError("the first unit asks for nothing")

    def _can_begin(self, place: int) -> bool:
        """Return whether a unit's inputs and the files of all frames before it exist."""
        for unit in self.units[:place]:
            if unit.is_last and not self._painted.frame_path(unit.frame).exists():
                return False
        return all(self._painted.load_state(number) is not None for number in self._ask_for(place))

    def _ask_for(self, place: int) -> list[int]:
        """Return the units whose images a unit and all later units of its pass need."""
        if place in (0, len(self.units)):
            return []
        unit, lines = self.units[place], self._painted.lines
        same_pass = [other for other in self.units if other.sweep == unit.sweep]
        done = [other.number for other in self.units[:place] if other.sweep == unit.sweep]
        if unit.alone:
            return done
        if unit.sweep:
            return [self._in_previous_pass(other) for other in same_pass[len(done) :]] + done
        if unit.number in lines and lines[unit.number]["shot"] == unit.frame + 1:
            return []
        shot = lines[unit.number - 1]["shot"] - 1
        wanted = {1, *self._prepared.distances}
        return [unit.number - d for d in wanted if unit.frame - d >= shot]

    def _in_previous_pass(self, unit: Unit) -> int:
        """Return the number of the unit of the same frame in the previous pass."""
        return unit.number - self._num_frames

    def _load(self, number: int) -> Float32 | None:
        """Return the image of a unit, from memory or from the disk."""
        if number not in self._images:
            image = self._painted.load_state(number)
            if image is None:
                return None
            self._images[number] = image
        return self._images[number]

    def paint(self, params: Any, reporter: FilmReporter) -> None:
        """Paint all missing units, unless the reporter stops the run.

        Args:
          params: parameters of the network.
          reporter: reporter of the progress, shared with other painters.
        """
        self._params, self._reporter = params, reporter
        place = self.find_first()
        with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(num_finders()) as finders:
            try:
                while place < len(self.units) and not reporter.stopped:
                    place += self._paint_pass(self.units[place:], readers, finders)
            finally:
                readers.shutdown(cancel_futures=True)
                finders.shutdown(cancel_futures=True)

    def _paint_pass(
        self, units: Sequence[Unit], readers: ThreadPoolExecutor, finders: ThreadPoolExecutor
    ) -> int:
        """Paint the units of the first unit's pass; return how many are painted."""
        first = units[0]
        units = [unit for unit in units if unit.sweep == first.sweep]
        sources = follow(
            self._prepared,
            frames=self._frames,
            first=first.frame,
            backward=first.step < 0,
            distances=sorted({1, *self._prepared.distances}),
            readers=readers,
            finders=finders,
        )
        for place, (unit, source) in enumerate(zip(units, sources, strict=True)):
            if self._reporter.stopped or not self._paint_frame(unit, source):
                return place
        return len(units)

    def _paint_frame(self, unit: Unit, source: Source) -> bool:
        """Paint and write a frame; return False if the observer stopped it."""
        began = time.perf_counter()
        shot, motion = self._find_shot(unit, source)
        pair = with_frame(
            self._plan.pair,
            source.image,
            paint=source.paint,
            memberships=source.memberships,
            name=f"frame {unit.frame + 1}",
        )
        began_painting = time.perf_counter()
        if self._shows_nothing_new(unit, source, motion):
            work: _Work | None = _Work(self._get(unit.number - unit.step), "held", 0, 0, {})
        else:
            work = self._optimize(unit, pair, *self._inherit(unit, pair, source, motion, shot))
            self._seen = unit.frame, source.image
        if work is None:
            return False
        ended_painting = time.perf_counter()
        finished = finish(pair, work.image)
        line = {
            "unit": unit.number,
            **({"pass": unit.sweep + 1} if self._config.video.passes > 1 else {}),
            "frame": unit.frame + 1,
            "time": round(float(self._prepared.clip.times[unit.frame]), 6),
            "shot": shot + 1,
            "seen": unit.frame + 1 if self._seen is None else self._seen[0] + 1,
            "status": work.status,
            "steps": work.num_steps,
            "evaluations": work.num_evaluations,
            **work.losses,
            **self._find_errors(unit, source, motion, finished),
        }
        self._images = {
            # With several passes, all other images are only on the disk.
            **{n: self._images[n] for n in self._find_near(unit) if n in self._images},
            unit.number: work.image,
        }
        self._shown = {unit.frame: finished}
        line["seconds"] = round(time.perf_counter() - began, 3)
        line["seconds_painting"] = round(ended_painting - began_painting, 3)
        kept = self._find_kept(unit)
        self._painted.save(
            work.image,
            line,
            finished=finished if unit.is_last else None,
            alpha=source.alpha,
            obsolete={each.number for each in self.units if each.number not in kept},
        )
        tells = unit.alone or unit.sweep or motion is not None
        self._reporter.finish(unit, seconds=time.perf_counter() - began if tells else None)
        return True

    def _shows_nothing_new(self, unit: Unit, source: Source, motion: Motion | None) -> bool:
        """Return whether a frame looks the same as the last frame that was optimized.

        The frame isn't compared with its predecessor, as slow changes would go unnoticed.
        """
        video = self._config.video
        changes = video.style_blend_end or self._prepared.masks_move
        if motion is None or video.passes > 1 or changes:
            return False
        if self._seen is None:  # This run resumes an earlier one.
            number = self._painted.lines[unit.number - unit.step]["seen"] - 1
            [still] = self._prepared.clip.stills([number])
            self._seen = number, self._prepared.scale(still.image)
        return bool(np.max(np.abs(source.image - self._seen[1])) <= _SAME)

    def _inherit(
        self, unit: Unit, pair: Pair, source: Source, motion: Motion | None, shot: int
    ) -> tuple[Plan, Heritage]:
        """Return the plan of a frame, and the data that it inherits from other frames."""
        plan, heritage = self._plan, Heritage()
        if unit.sweep:
            plan, heritage = self._later_plan, self._mix(unit, pair, motion)
        elif motion is not None and not unit.alone:
            plan, heritage = self._later_plan, self._go_on(unit, pair, source, motion, shot)
        return plan, heritage._replace(coefficients=self._find_coefficients(unit.frame))

    def _optimize(self, unit: Unit, pair: Pair, plan: Plan, heritage: Heritage) -> "_Work | None":
        """Optimize a frame, from a checkpoint if there is one; None if the observer stopped it."""
        checkpoints = Checkpoints(
            self._painted.path / STATE_NAME / f"{unit.number:06d}",
            [self._record],
            seconds=self._config.output.checkpoint_seconds,
        )

        def report(_: int, progress: Progress) -> bool:
            return self._reporter.tell(unit, progress)

        def keep(fetch: Callable[[], RunState]) -> None:
            checkpoints.keep(fetch, now=self._reporter.stopped)

        [result] = stylize_bound(
            [plan.with_content(pair)],
            self._params,
            heritage=[heritage],
            # The target of a style has the content's soft masks and the regions' shares of the
            # frame in it, so that moving masks rule out sharing; the styles pass through the
            # network again, once per frame, next to about 17 evaluations.
            style_targets=None if self._prepared.masks_move else self._style_targets,
            finishes=False,
            callback=report,
            restored=checkpoints.restore(self._config.output),
            checkpoint=keep,
        )
        if result.status == Status.STOPPED:
            return None
        checkpoints.remove()
        return _Work(
            *(result.image, result.status.name.lower(), result.num_steps),
            *(result.num_evaluations, result.losses),
        )

    def _find_shot(self, unit: Unit, source: Source) -> tuple[int, Motion | None]:
        """Find the shot of a frame, and its motion to its neighbor in the same shot.

        Returns:
          The number of the shot's first frame, and the motion; None without such a neighbor.
        """
        lines, neighbor = self._painted.lines, unit.frame - unit.step
        motion = source.motions[neighbor].result() if neighbor in source.motions else None
        if unit.sweep:  # The first pass has found the shots.
            shot: int = lines[unit.frame]["shot"] - 1
            same = motion is not None and lines[neighbor]["shot"] - 1 == shot
            return shot, motion if same else None
        if motion is None or motion.is_cut:
            return unit.frame, None
        return lines[neighbor]["shot"] - 1, motion

    def _go_on(self, unit: Unit, pair: Pair, source: Source, motion: Motion, shot: int) -> Heritage:
        """Return what a frame inherits from earlier frames if there is a single pass."""
        before = self._get(unit.number - 1)
        start = make_moved_start(before, motion, content=np.asarray(pair.content))
        near = [unit.frame - d for d in self._prepared.distances if unit.frame - d >= shot]
        found = [source.motions[number].result() for number in near]
        moved = [move(self._get(number), one) for number, one in zip(near, found, strict=True)]
        if not near:
            return Heritage(start)
        weights = share_weights([one.weights for one in found])
        return Heritage(start, References(np.stack(moved), np.stack(weights)))

    def _mix(self, unit: Unit, pair: Pair, motion: Motion | None) -> Heritage:
        """Return what a frame inherits from the previous pass and from its neighbor in this pass.

        The initial image is x' = (x + c w) / (1 + c), as in the authors' program: x is the frame's
        image from the previous pass, w the warped neighbor.
        """
        image = self._get(self._in_previous_pass(unit))
        if motion is None:
            return Heritage(image)
        neighbor = self._get(unit.number - unit.step)
        moved = make_moved_start(neighbor, motion, content=np.asarray(pair.content))
        known = motion.weights[..., None]
        omega = move(neighbor, motion)
        return Heritage(
            ((image + known * moved) / (1 + known)).astype(np.float32),
            References(omega[None], motion.weights[None]),
        )

    def _get(self, number: int) -> Float32:
        image = self._load(number)
        assert image is not None, "states are there until nobody needs them"
        return image

    def _find_coefficients(self, frame: int) -> dict[str, float]:
        """Return the styles' coefficients at a frame; empty if they don't change over the clip."""
        losses, end = self._config.losses, self._config.video.style_blend_end
        if not end:
            return {}
        share = frame / (self._num_frames - 1)
        start = losses.style_blend or [1 / len(end)] * len(end)
        names = {term.name for term in self._plan.terms}
        return {
            f"style{n}": losses.style_weight * ((1 - share) * a / sum(start) + share * b / sum(end))
            for n, (a, b) in enumerate(zip(start, end, strict=True), 1)
            if f"style{n}" in names
        }

    def _find_errors(
        self, unit: Unit, source: Source, motion: Motion | None, finished: Float32
    ) -> Line:
        """Return the reliable share of a frame's flow, and the warping errors to its neighbor."""
        if motion is None:
            return {"reliable": None, "e_warp": None, "e_warp_source": None}
        neighbor = unit.frame - unit.step
        if neighbor not in self._shown:
            other = source.others[neighbor]
            pair = with_frame(self._plan.pair, other.image, paint=other.paint)
            self._shown[neighbor] = finish(pair, self._get(unit.number - unit.step))
        moved = move(self._shown[neighbor], motion, outside=finished)
        return {
            "reliable": round(motion.reliable_share, 4),
            "e_warp": find_error(finished, moved, motion.weights),
            "e_warp_source": motion.source_error,
        }

    def _find_near(self, unit: Unit) -> Iterable[int]:
        """Return the units of the same pass whose images the next units need, the last first."""
        most = max(self._prepared.distances)
        return range(unit.number, unit.number - unit.step * most, -unit.step)

    def _find_kept(self, unit: Unit) -> set[int]:
        """Return the units whose states are still needed after a unit is painted."""
        if self._config.video.passes == 1:
            # One more than needed, so that a run can resume one unit earlier if the last state is
            # damaged.
            return {*self._find_near(unit), unit.number - max(self._prepared.distances)}
        place = self.units.index(unit) + 1
        same_pass = [other for other in self.units if other.sweep == unit.sweep]
        done = [other.number for other in self.units[:place] if other.sweep == unit.sweep]
        return {*done, *(self._in_previous_pass(other) for other in same_pass[len(done) :])}


def num_finders() -> int:
    """Return the number of threads that find motion."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))
