"""Batches of many pairs: checked before the first step, run in groups, resumable after a crash."""

from neuart_jax.runs.batch.progress import BatchProgress
from neuart_jax.runs.batch.run import BatchResult, run_batch

__all__ = ["BatchProgress", "BatchResult", "run_batch"]
