"""Run prepared pairs together, and save their results to folders."""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.engine.binding import load_run_network
from neuart_jax.engine.own_parts import FeatureNetwork
from neuart_jax.engine.pairs import stylize_pairs
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.result import BatchCallback, Progress, Result
from neuart_jax.engine.sharding import agree, writes_files
from neuart_jax.engine.state import RunState
from neuart_jax.engine.step import Status
from neuart_jax.inputs.initial_image import STARTS
from neuart_jax.models.params.canonical import digest_variables
from neuart_jax.models.params.load import Network, narrow_network
from neuart_jax.runs.checkpoints import Checkpoints
from neuart_jax.runs.destination import removing_empty_folders
from neuart_jax.runs.finished import was_cut
from neuart_jax.runs.folder import RunFolder
from neuart_jax.runs.prepare import Prepared, without_folders
from neuart_jax.runs.progress_film import save_progress
from neuart_jax.runs.record import Record

logger = logging.getLogger(__name__)

_LITTLE_CONTENT = 0.4
"""Share of the initial content loss above which little of the content shows. Recipes that reach the
photograph from noise ended at 0.06 to 0.35; of runs above 0.45, only the style could be seen."""


class Painted(NamedTuple):
    """Painted pairs whose results are not saved yet.

    Attributes:
      results: result of every pair.
      group: the pairs.
      places: folder of every pair.
      records: record of every pair.
      checkpoints: checkpoints to remove once the results are saved; None to keep them.
      at_the_end: releases the folders.
    """

    results: Sequence[Result]
    group: Sequence[Prepared]
    places: Sequence[RunFolder]
    records: Sequence[Record]
    checkpoints: Checkpoints | None
    at_the_end: contextlib.ExitStack

    @phase("output")
    def save(self) -> list[Path]:
        """Write every result to its folder; return the paths of the images.

        Raises:
          InputError: a folder can't be written.
        """
        with self.at_the_end:
            if writes_files():
                pairs = zip(self.results, self.group, self.places, self.records, strict=True)
                for result, prepared, place, record in pairs:
                    place.save(
                        result,
                        record,
                        coefficients={term.name: term.weight for term in prepared.plan.terms},
                        alpha=prepared.content.alpha,
                        save_progress=functools.partial(
                            save_progress,
                            content=prepared.plan.pair.original,
                            frames=place.frame_paths(prepared.plan.frame_steps),
                            result=result,
                            output=prepared.config.output,
                        ),
                    )
                if self.checkpoints is not None:
                    self.checkpoints.remove()
        return [place.image_path for place in self.places]


def paint(
    group: Sequence[Prepared],
    folders: Sequence[Path],
    *,
    checkpoints: Path,
    replace: bool = False,
    network: Network | FeatureNetwork | None = None,
    reason: str = "",
    callback: BatchCallback | None = None,
    repeated: Record | None = None,
    num_devices: int = 1,
) -> Painted:
    """Run pairs together, writing the progress of each to its folder.

    Args:
      group: pairs with equal `Plan.traits`.
      folders: folder of every pair.
      checkpoints: folder of the group's checkpoints.
      replace: whether existing results may be replaced, whatever `overwrite` says.
      network: network loaded for all pairs; None loads it.
      reason: why no better weights are used, if they were resolved; see `settle.Settled`.
      callback: called with a pair's number and its `Progress` after every chunk; returning True
        stops that pair.
      repeated: the record that the first pair's run repeats; differences are logged.
      num_devices: number of this machine's devices over which the pairs are sharded.

    Returns:
      The results, to be saved immediately, later, or by another thread.

    Raises:
      InputError: an argument is invalid, or a folder can't be written or has another result.
    """
    with removing_empty_folders(folders), contextlib.ExitStack() as at_the_end:
        places = []
        for prepared, path in zip(group, folders, strict=True):
            places.append(_open_folder(prepared, path, replace=replace))
            at_the_end.callback(places[-1].close)
        network = _get_network(group, network, reason)
        records = [_make_record(prepared, network) for prepared in group]
        if repeated is not None and (differences := records[0].differences(repeated)):
            logger.warning(
                "Pixels may differ slightly: the record was made with a different setup (%s).",
                ", ".join(differences),
            )
        saved = Checkpoints(checkpoints, records, seconds=group[0].config.output.checkpoint_seconds)
        results, stopped = _run(
            group, places, saved, network=network, callback=callback, num_devices=num_devices
        )
        left = None if stopped else saved
        return Painted(results, group, places, records, left, at_the_end.pop_all())


def _open_folder(prepared: Prepared, path: Path, *, replace: bool) -> RunFolder:
    """Open the folder of a run's files, unless it has a result that must not be replaced."""
    output, run = prepared.config.output, prepared.config.run
    place = RunFolder(
        path,
        image_name=output.image_name,
        frames=output.wants_frames,
        animation=output.animation,
    )
    try:
        may_go = replace or output.overwrite or was_cut(path, output)
        if not may_go and place.holds_result():
            raise InputError(
                f"{path} already holds a result",
                expected="a folder without a result",
                remedy="give another --output, or add --overwrite",
            )
        height, width, _ = prepared.plan.pair.original.shape
        place.keep_room(height, width, num_reports=known(run.steps) // run.report_every + 8)
    except BaseException:
        place.close()
        raise
    return place


def _get_network(
    group: Sequence[Prepared], network: Network | FeatureNetwork | None, reason: str
) -> Network | FeatureNetwork:
    """Return the pairs' network, loading it unless it is given, and log its weights."""
    if isinstance(network, FeatureNetwork):
        logger.info("Weights: those of a custom network.")
    elif network is None:
        network = load_run_network([prepared.plan for prepared in group])
        logger.info(f"{network.message[:-1]}; {reason}." if reason else network.message)
    else:
        plan = group[0].plan
        network = narrow_network(network, plan.config.network, layers=plan.layers)
    for prepared in group:
        for note in prepared.plan.pair.notes:
            logger.info(note)
    return network


def _make_record(prepared: Prepared, network: Network | FeatureNetwork) -> Record:
    config, prediction = prepared.config, prepared.plan.prediction
    if isinstance(network, FeatureNetwork):
        leaves = enumerate(jax.tree.leaves(network.params))
        arrays = {str(number): np.asarray(leaf) for number, leaf in leaves}
        identity = {"name": "own", "file": "", "sha256": digest_variables(arrays)}
    else:
        identity = dict(network.identity)
    return Record.of_this_run(
        config if config.output.record_paths else without_folders(config),
        weights=identity,
        inputs=prepared.digests,
        predicted_bytes=0 if prediction is None else prediction.total,
        own=prepared.own,
    )


def _run(
    group: Sequence[Prepared],
    places: Sequence[RunFolder],
    checkpoints: Checkpoints,
    *,
    network: Network | FeatureNetwork,
    callback: BatchCallback | None,
    num_devices: int,
) -> tuple[list[Result], bool]:
    """Stylize pairs from their last checkpoint; return the results, and whether stopped."""
    restored = checkpoints.restore(group[0].config.output)
    if restored is not None:
        for place, pair in zip(places, restored.pairs, strict=True):
            place.resume(pair.history)
    stopped = False
    num_running = len(group)

    def report(number: int, progress: Progress) -> bool:
        nonlocal stopped, num_running
        num_running -= progress.status != Status.RUNNING
        writes = writes_files()
        if writes:
            places[number].report(progress)
        if group[number].plan.wants_frame(progress.num_steps):
            image = progress.image()  # On all machines, as each holds a part of the image.
            if writes:
                places[number].save_frame(progress.num_steps, image, group[number].content.alpha)
        wanted = agree(callback is not None and bool(callback(number, progress)))
        stopped = stopped or wanted
        return wanted

    def keep(fetch: Callable[[], RunState]) -> None:
        # A kill may leave only some of several results written, so keep the final state as well.
        ended = len(group) > 1 and num_running == 0
        checkpoints.keep(fetch, now=stopped or ended)

    results = stylize_pairs(
        [prepared.plan for prepared in group],
        network=network,
        callback=report,
        restored=restored,
        checkpoint=keep,
        num_devices=num_devices,
    )
    for prepared, result in zip(group, results, strict=True):
        if lost := describe_lost_content(prepared.config, result):
            logger.warning(lost)
    return results, stopped


_LOST = 0.75
"""Relative content loss above which nothing of the photograph is left in an image."""


def describe_lost_content(config: Config, result: Result) -> str:
    """Describe the failure of a run that didn't start from the photograph to reach it.

    Args:
      config: resolved configuration.
      result: result of the run.

    Returns:
      A sentence, or an empty string if the photograph is there. Runs that start from the photograph
      keep it however strong the style.
    """
    content, began = result.losses.get("content", 0.0), config.run.init
    if began in ("content", "blend") or result.status not in _ENDED:
        return ""
    initial = result.history[0].get("content", 0.0) if began in STARTS and result.history else 0.0
    # Losses other than relative ones have no absolute scale.
    is_lost = config.losses.content_loss == "relative" and content > _LOST
    if not is_lost and not content > _LITTLE_CONTENT * initial > 0:
        return ""
    share = f", {content / initial:.0%} of its initial value" if initial else ""
    weight = known(config.losses.content_weight)
    return (
        f"Little of the photograph shows in the result (content loss {content:.3g}{share}): from "
        f"--init={began}, use a larger --content_weight, {3 * weight:g} say, or more --steps."
    )


_ENDED = (Status.COMPLETED, Status.PLATEAU, Status.STUCK)
