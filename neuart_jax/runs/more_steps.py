"""Continue a finished result with more steps, from its image."""

import logging
import os
from pathlib import Path

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.config.fields import known
from neuart_jax.engine.step import Status
from neuart_jax.io.files import write_atomically
from neuart_jax.runs.prepare import Prepared
from neuart_jax.runs.record import RECORD_NAME, Record, read_record

logger = logging.getLogger(__name__)


def ask_for_more_steps(config: Config, prepared: Prepared, folder: Path) -> Config | None:
    """Return the settings of the remaining steps, if a folder has this run with fewer steps.

    The existing image is kept under another name as the initial image of the new steps, so that the
    new record has everything needed to reproduce the result.

    Args:
      config: the configuration as given.
      prepared: the run, with resolved settings.
      folder: folder of the run.
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
    if Record(shorter, inputs=prepared.digests, own=prepared.own).unlike(base):
        return None
    kept = folder / f"{image.stem}_{made}_steps{image.suffix}"
    _keep_image(image, kept)
    logger.info(
        "%s holds this run with %d steps; %d more follow from its image, which is kept as %s.",
        folder,
        made,
        wanted - made,
        kept.name,
    )
    return config.replace(init=str(kept), scales=1, steps=wanted - made, overwrite=True)


def _keep_image(image: Path, kept: Path) -> None:
    """Copy an image to another name, which must be unused."""
    earlier = image.read_bytes()
    if os.path.lexists(kept):
        # After a kill, the copy may exist already.
        if kept.is_file() and kept.read_bytes() == earlier:
            return
        raise InputError(
            f"{kept} already exists, and the present image would be kept under that name",
            expected="an unused name",
            remedy="move that file away, or give another --output",
        )
    with write_atomically(kept) as file:
        file.write(earlier)


def _count_steps(record: Record, folder: Path) -> tuple[int, Record]:
    """Return the number of full-size steps of a folder's image, and the record of the first run."""
    steps, start = known(record.config.run.steps), Path(record.config.run.init)
    if start.parent != folder.resolve() or not start.exists():
        return steps, record
    before, base = _count_steps(read_record(start), folder)
    return before + steps, base
