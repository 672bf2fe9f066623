"""Look for a finished result, or an interrupted run, in a run's folder."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import OutputConfig
from neuart_jax.engine.step import Status
from neuart_jax.runs.checkpoints import find_checkpoints
from neuart_jax.runs.folder import CHECKPOINTS, is_whole
from neuart_jax.runs.prepare import Prepared
from neuart_jax.runs.record import RECORD_NAME, Record, read_record, refuse


def find_finished(
    folder: Path,
    prepared: Prepared,
    *,
    overwrite: bool,
    weights: Mapping[str, str] = {},
) -> Record | None:
    """Return the record of a finished result, if a folder has one of the same run.

    Args:
      folder: folder of the run's files.
      prepared: the run.
      overwrite: whether to ignore a result of another run.
      weights: identity of the run's weights; not compared if empty.

    Raises:
      InputError: the folder has a result of another run.
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
        return None  # Damaged; opening the folder checks whether it is this program's.
    if record.outcome.get("status") in (None, Status.STOPPED.name.lower()):
        return None
    differences = Record(prepared.config, weights, prepared.digests, prepared.own).unlike(record)
    if differences and not overwrite:
        refuse(folder, differences)
    return None if differences or not is_whole(image, document) else record


def was_cut(folder: Path, output: OutputConfig) -> bool:
    """Return whether a folder has a run that was stopped or killed and can be resumed.

    A finished run removes its checkpoints last.
    """
    return output.resume and bool(find_checkpoints(folder / CHECKPOINTS))
