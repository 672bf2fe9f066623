"""Runs from files to files: what the command line does, for programs."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.config.sections import OutputConfig
from neuart_jax.engine.result import BatchCallback, Callback, Progress, Result
from neuart_jax.engine.sharding import agree, describe_devices, writes_files
from neuart_jax.engine.state import RunState
from neuart_jax.engine.step import Status
from neuart_jax.engine.stylizer import load_run_network, stylize_pairs
from neuart_jax.io.files import make_folder, write_atomically
from neuart_jax.io.images import load_image
from neuart_jax.io.paths import check_place
from neuart_jax.models.params.load import Network, narrow_network, settle_network
from neuart_jax.runs.checkpoints import Checkpoints, find_checkpoints, read_owners
from neuart_jax.runs.destination import Destination, find_destination, removing_empty_folders
from neuart_jax.runs.folder import CHECKPOINTS, RunFolder, default_folders, is_whole
from neuart_jax.runs.own_folder import is_in_use
from neuart_jax.runs.prepare import Prepared, prepare, without_folders
from neuart_jax.runs.record import RECORD_NAME, Record, read_record, refuse

logger = logging.getLogger(__name__)


class Transfer(NamedTuple):
    """A finished run.

    Attributes:
      result: what it gave.
      image_path: the picture's file.
    """

    result: Result
    image_path: Path


def transfer(
    config: Config,
    *,
    network: Network | None = None,
    callback: Callback | None = None,
    repeated: Record | None = None,
) -> Transfer:
    """Read both pictures, stylize, and write the run's folder.

    A run that was cut, by a signal or a crash, goes on at its last checkpoint and ends with the
    picture that it would have ended with; see `OutputConfig.resume`.

    Args:
      config: with `content` and `style` set.
      network: loaded beforehand as `config.network` says, for these pictures and for at least the
        layers of `config`; the record names only what these layers use. None loads it, and logs
        as one line (level INFO) which weights it has.
      callback: called with a `Progress` after every chunk; returning True stops the run, and the
        best picture so far is written, with a checkpoint beside it.
      repeated: the record that this run repeats; what is not the same is logged.

    Raises:
      InputError: something given can't be used, or the folder can't be written.
    """
    destination = find_destination(config.output)
    config = config.replace(output=destination.folder)
    if destination.picture is not None:
        config = config.replace(image_name=destination.picture.name)
        _check_free(destination.picture, config.output)
    # Before anything is downloaded, so that what can be refused is; and each file is read once.
    load = functools.lru_cache(maxsize=None)(load_image)
    prepared, reason = prepare(config, load=load), ""
    if network is not None:
        found = network.config
    else:
        found, reason = settle_network(config.network)[:2]
    if (found.model, found.weights) != (config.network.model, config.network.weights):
        # What was left open turned out, and settings that were, too, may mean something else.
        config = config.replace(model=found.model, weights=found.weights)
        prepared = prepare(config, load=load)
    folder = _choose_folder(prepared)
    if longer := _prolong(config, prepared, folder):
        prepared = prepare(longer, load=load)
    _put_picture_again(destination, prepared, folder)
    for note in (*prepared.notes, f"Computing on {describe_devices()}."):
        logger.info(note)
    [finished] = transfer_group(
        [prepared],
        [folder],
        network=network,
        reason=reason,
        checkpoints=folder / CHECKPOINTS,
        callback=None if callback is None else lambda _, progress: callback(progress),
        repeated=repeated,
    )
    if not writes_files():
        return finished
    return finished._replace(image_path=destination.put_picture(finished.image_path))


def _put_picture_again(destination: Destination, prepared: Prepared, folder: Path) -> None:
    """Copy a run's picture to where it is wanted, if a kill or a full disk was in the way."""
    picture = destination.picture
    if picture is None or os.path.lexists(picture) or prepared.config.output.overwrite:
        return
    if writes_files() and find_finished(folder, prepared, overwrite=True) is not None:
        destination.put_picture(folder / picture.name)
        logger.info("%s is there again, from %s.", picture, folder)


def _prolong(config: Config, prepared: Prepared, folder: Path) -> Config | None:
    """Return the settings of what is still to be done where a folder has this run with fewer steps.

    The picture that is there is kept under another name and is the start of the new steps, so that
    the new record tells all that is needed to make the result again.

    Args:
      config: as given.
      prepared: with the settings resolved.
      folder: that the run would write.
    """
    output, wanted = prepared.config.output, known(prepared.config.run.steps)
    image = folder / output.image_name
    try:
        found = read_record(folder / RECORD_NAME)
        made, base = _count_steps(found, folder)
    except InputError:
        return None
    ended = found.outcome.get("status") in (Status.COMPLETED.name.lower(),)
    if output.overwrite or not ended or not image.exists() or not made < wanted:
        return None
    shorter = prepared.config.replace(steps=known(base.config.run.steps))
    if Record(shorter, inputs=prepared.digests).unlike(base):
        return None
    kept = folder / f"{image.stem}_{made}_steps{image.suffix}"
    _keep_picture(image, kept)
    logger.info(
        "%s has this run with %d steps: %d more are made from its picture, which is kept as %s.",
        folder,
        made,
        wanted - made,
        kept.name,
    )
    return config.replace(init=str(kept), scales=1, steps=wanted - made, overwrite=True)


def _keep_picture(image: Path, kept: Path) -> None:
    """Keep a picture under another name, which nobody else's file may have."""
    earlier = image.read_bytes()
    if os.path.lexists(kept):
        # After a kill it is there, and is that picture.
        if kept.is_file() and kept.read_bytes() == earlier:
            return
        raise InputError(
            f"{kept} is there already, where the picture so far would be kept",
            expected="a name that is free",
            remedy="move it away, or give another --output",
        )
    with write_atomically(kept) as file:
        file.write(earlier)


def _count_steps(record: Record, folder: Path) -> tuple[int, Record]:
    """Return how many steps at full size a folder's picture has, and what its first ones made."""
    steps, start = known(record.config.run.steps), Path(record.config.run.init)
    if start.parent != folder.resolve() or not start.exists():
        return steps, record
    before, base = _count_steps(read_record(start), folder)
    return before + steps, base


def _check_free(picture: Path, output: OutputConfig) -> None:
    folder = Path(output.output)
    # With its record, the folder decides: what is there may go on.
    if (folder / RECORD_NAME).exists() or was_cut(folder, output):
        return
    if os.path.lexists(picture) and not output.overwrite:
        raise InputError(
            f"--output={picture} is there already",
            expected="a name that is free",
            remedy="give another --output, or add --overwrite",
        )


_Group = TypeVar("_Group", bound=Callable[..., Any])


def _leave_no_empty_folders(transfer_group: _Group) -> _Group:
    """Have a function of pairs and their folders remove what it made where it is refused."""

    @functools.wraps(transfer_group)
    def wrapped(group: Any, folders: Sequence[Path], **options: Any) -> Any:
        with removing_empty_folders(folders):
            return transfer_group(group, folders, **options)

    return cast(_Group, wrapped)


@_leave_no_empty_folders
def transfer_group(
    group: Sequence[Prepared],
    folders: Sequence[Path],
    *,
    checkpoints: Path,
    replace: bool = False,
    network: Network | None = None,
    reason: str = "",
    callback: BatchCallback | None = None,
    repeated: Record | None = None,
    num_devices: int = 1,
    defer: Callable[[Callable[[], None]], object] = lambda write: write(),
) -> list[Transfer]:
    """Stylize pairs together and write a folder for each.

    Args:
      group: of one `Plan.traits`.
      folders: one for each.
      checkpoints: folder for what is needed to go on with all of them.
      replace: whether results that are there may be replaced, whatever `overwrite` says.
      network: as in `transfer`, for all of them.
      reason: why it isn't a better one, where it was settled; see `settle.Settled`.
      callback: called with a pair's number and its `Progress` after every chunk; returning True
        stops that pair.
      repeated: as in `transfer`.
      num_devices: of this machine, among which the pairs are shared out.
      defer: called with what writes the results, which may be done later or in another thread;
        it is done at once by default.

    Raises:
      InputError: as in `transfer`, or a folder holds something else.
    """
    with contextlib.ExitStack() as at_the_end:
        places = []
        for prepared, path in zip(group, folders, strict=True):
            places.append(_open_folder(prepared, path, replace=replace))
            at_the_end.callback(places[-1].close)
        results, saved, records = _run_group(
            group,
            places,
            checkpoints=checkpoints,
            network=network,
            reason=reason,
            callback=callback,
            repeated=repeated,
            num_devices=num_devices,
        )
        after_writing = at_the_end.pop_all()

    def write() -> None:
        with after_writing:
            if not writes_files():
                return
            for each in zip(results, group, records, places, strict=True):
                _save(*each)
            if saved is not None:
                saved.remove()

    defer(write)
    return [
        Transfer(result, place.image_path) for result, place in zip(results, places, strict=True)
    ]


def _open_folder(prepared: Prepared, path: Path, *, replace: bool) -> RunFolder:
    """Take the folder of a run's files, unless it holds a result that has to stay."""
    output, run = prepared.config.output, prepared.config.run
    place = RunFolder(path, image_name=output.image_name, frames=output.wants_frames)
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


def _run_group(
    group: Sequence[Prepared],
    places: Sequence[RunFolder],
    *,
    checkpoints: Path,
    network: Network | None,
    reason: str,
    callback: BatchCallback | None,
    repeated: Record | None,
    num_devices: int,
) -> tuple[list[Result], Checkpoints | None, list[Record]]:
    """Do what `transfer_group` does before it writes results.

    Returns:
      The results; the checkpoints that are to go once they are written; and the pairs' records.
    """
    first = group[0]
    if network is None:
        network = load_run_network([prepared.plan for prepared in group])
        logger.info(f"{network.message[:-1]}; {reason}." if reason else network.message)
    else:
        network = narrow_network(network, first.config.network, layers=first.plan.layers)
    for prepared in group:
        for note in prepared.plan.pair.notes:
            logger.info(note)
    records = [_make_record(prepared, network) for prepared in group]
    if repeated is not None and (differences := records[0].differences(repeated)):
        logger.warning(
            "Pixels may differ: the record was made with other %s.", ", ".join(differences)
        )
    make_folder(checkpoints.parent)
    saved = Checkpoints(checkpoints, records, seconds=first.config.output.checkpoint_seconds)
    restored = None
    if first.config.output.resume:
        restored = saved.load(overwrite=first.config.output.overwrite)
    if restored is None:
        saved.remove()
    else:
        for place, pair in zip(places, restored.pairs, strict=True):
            place.resume(pair.history)
        steps = min(pair.history[-1]["step"] for pair in restored.pairs)
        logger.info("Going on after step %d, from %s.", steps, checkpoints)
    stopped = False
    num_running = len(group)

    def report(number: int, progress: Progress) -> bool:
        nonlocal stopped, num_running
        num_running -= progress.status != Status.RUNNING
        writes = writes_files()
        if writes:
            places[number].report(progress)
        if group[number].config.output.wants_frame(progress.num_steps):
            image = progress.image()  # All machines have a part of it.
            if writes:
                places[number].save_frame(progress.num_steps, image, group[number].content.alpha)
        wanted = agree(callback is not None and bool(callback(number, progress)))
        stopped = stopped or wanted
        return wanted

    def keep(fetch: Callable[[], RunState]) -> None:
        # Several results aren't written at once: what only some of them are there from goes on too.
        ended = len(group) > 1 and num_running == 0
        saved.keep(fetch, now=stopped or ended)

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
    return results, None if stopped else saved, records


_LOST = 0.75
"""Relative content loss of a picture that began elsewhere and has nothing of the photograph."""


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


def find_finished(
    folder: Path,
    prepared: Prepared,
    *,
    overwrite: bool,
    weights: Mapping[str, str] = {},
) -> Record | None:
    """Return the record of a finished result, if a folder holds one of this very run.

    Args:
      folder: in which the run's files would be.
      prepared: the run.
      overwrite: take a result of something else for none.
      weights: the identity of the run's weights; they aren't compared where it is empty.

    Raises:
      InputError: the folder holds a result of something else.
    """
    image, text = folder / prepared.config.output.image_name, ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (folder / RECORD_NAME).read_text(encoding="utf-8")
    if not text:
        return None
    try:
        document = json.loads(text)
        record = read_record(folder / RECORD_NAME)
    except (InputError, ValueError, RecursionError):
        return None  # Damaged; whose it is shows when the folder is opened.
    if record.outcome.get("status") in (None, Status.STOPPED.name.lower()):
        return None
    differences = Record(prepared.config, weights, prepared.digests).unlike(record)
    if differences and not overwrite:
        refuse(folder, differences)
    return None if differences or not is_whole(image, document) else record


def was_cut(folder: Path, output: OutputConfig) -> bool:
    """Tell whether a folder holds a run that was stopped or killed, and may go on.

    Its checkpoints are the last that a finished run removes.
    """
    return output.resume and bool(find_checkpoints(folder / CHECKPOINTS))


def _choose_folder(prepared: Prepared) -> Path:
    """Return --output, or the first default folder that is free or holds this run, cut short."""
    output, images = prepared.config.output, prepared.config.images
    place = check_place(output.output or ".", name="--output")
    if output.output:
        return place
    record = Record(prepared.config, inputs=prepared.digests)
    for folder in default_folders(images.content, *images.style):
        if not folder.exists():
            break
        if was_cut(folder, output) and not is_in_use(folder):
            owners = read_owners(folder / CHECKPOINTS)
            if len(owners) == 1 and not record.unlike(owners[0]):
                break
    return folder


def _make_record(prepared: Prepared, network: Network) -> Record:
    config, prediction = prepared.config, prepared.plan.prediction
    assert prediction is not None  # It is None for networks of one's own.
    return Record.of_this_run(
        config if config.output.record_paths else without_folders(config),
        weights=network.identity,
        inputs=prepared.digests,
        predicted_bytes=prediction.total,
    )


def _save(result: Result, prepared: Prepared, record: Record, place: RunFolder) -> None:
    place.save(
        result,
        record,
        coefficients={term.name: term.weight for term in prepared.plan.terms},
        alpha=prepared.content.alpha,
    )
