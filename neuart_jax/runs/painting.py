"""Pairs on their way from settings and images into folders: painted together, then saved."""

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
from neuart_jax.engine.result import BatchCallback, Progress, Result
from neuart_jax.engine.sharding import agree, writes_files
from neuart_jax.engine.state import RunState
from neuart_jax.engine.step import Status
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


class Painted(NamedTuple):
    """Pairs that are painted, and whose results are still to be saved.

    Attributes:
      results: of each pair.
      group: the pairs.
      places: the folder of each.
      records: of each.
      checkpoints: to be removed once the results are saved; None where they stay.
      at_the_end: gives the folders free.
    """

    results: Sequence[Result]
    group: Sequence[Prepared]
    places: Sequence[RunFolder]
    records: Sequence[Record]
    checkpoints: Checkpoints | None
    at_the_end: contextlib.ExitStack

    def save(self) -> list[Path]:
        """Write every result into its folder; return the images' files.

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
    """Paint pairs together; what they report on the way goes into a folder for each.

    Args:
      group: of one `Plan.traits`.
      folders: one for each.
      checkpoints: folder for what is needed to go on with all of them.
      replace: whether results that are there may be replaced, whatever `overwrite` says.
      network: loaded beforehand for all of them; None loads it.
      reason: why it isn't a better one, where it was settled; see `settle.Settled`.
      callback: called with a pair's number and its `Progress` after every chunk; returning True
        stops that pair.
      repeated: the record that the first pair's run repeats; what is not the same is logged.
      num_devices: of this machine, among which the pairs are shared out.

    Returns:
      The results, to be saved at once, later, or by another thread.

    Raises:
      InputError: something given can't be used, a folder can't be written, or holds something else.
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
                "Pixels may differ: the record was made with other %s.", ", ".join(differences)
            )
        saved = Checkpoints(checkpoints, records, seconds=group[0].config.output.checkpoint_seconds)
        results, stopped = _run(
            group, places, saved, network=network, callback=callback, num_devices=num_devices
        )
        left = None if stopped else saved
        return Painted(results, group, places, records, left, at_the_end.pop_all())


def _open_folder(prepared: Prepared, path: Path, *, replace: bool) -> RunFolder:
    """Take the folder of a run's files, unless it holds a result that has to stay."""
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
                expected="a folder without one",
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
    """Load what the pairs share, unless it is there; say what it is."""
    if isinstance(network, FeatureNetwork):
        logger.info("Weights: those of a network of one's own.")
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
    """Stylize pairs, from their last checkpoint on; return the results, and whether stopped."""
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
            image = progress.image()  # All machines have a part of it.
            if writes:
                places[number].save_frame(progress.num_steps, image, group[number].content.alpha)
        wanted = agree(callback is not None and bool(callback(number, progress)))
        stopped = stopped or wanted
        return wanted

    def keep(fetch: Callable[[], RunState]) -> None:
        # Several results aren't written at once: what only some of them are there from goes on too.
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
"""Relative content loss of an image that began elsewhere and has nothing of the photograph."""


def describe_lost_content(config: Config, result: Result) -> str:
    """Say that a run from noise or from the style did not arrive at the photograph, if so.

    Args:
      config: resolved.
      result: of its run.

    Returns:
      A sentence, or nothing: where the photograph was the start, it is there however strongly it
      is painted; and losses other than relative ones have no scale of their own.
    """
    content = result.losses.get("content", 0.0)
    began_there = config.run.init in ("content", "blend")
    if began_there or config.losses.content_loss != "relative" or not content > _LOST:
        return ""
    weight = known(config.losses.content_weight)
    return (
        f"Little of the photograph is in the picture (content loss {content:.2f}): from "
        f"--init={config.run.init} it takes a larger --content_weight, {3 * weight:g} say, or more "
        "--steps."
    )
