"""What a run's folder has already: its result, or what is needed to go on with it."""

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
    differences = Record(prepared.config, weights, prepared.digests, prepared.own).unlike(record)
    if differences and not overwrite:
        refuse(folder, differences)
    return None if differences or not is_whole(image, document) else record


def was_cut(folder: Path, output: OutputConfig) -> bool:
    """Tell whether a folder holds a run that was stopped or killed, and may go on.

    Its checkpoints are the last that a finished run removes.
    """
    return output.resume and bool(find_checkpoints(folder / CHECKPOINTS))
