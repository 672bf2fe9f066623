"""Compiled programs are kept from one run to the next: most of a short run's time."""

import logging
import os
import tempfile
from pathlib import Path

import jax

from neuart_jax.files import brief_cause

logger = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024**3
"""The oldest programs go when there are more; those of `make demo` at 128 pixels are 3 MB."""


def use_compilation_cache(folder: Path) -> None:
    """Keep all compiled programs of this process in a folder, and take them from there.

    Where the user has chosen a folder already (``JAX_COMPILATION_CACHE_DIR``), nothing is changed.
    A folder that can't be written costs a line in the log and the time to compile. JAX itself warns
    of an entry that is damaged, and compiles anew.

    Args:
      folder: made if it isn't there.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logger.warning(
            "Compiled programs are not kept: %s can't be written (%s).", folder, brief_cause(error)
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    # The dozens of small programs around the large ones take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
