"""Names of a batch's own files."""

from neuart_jax.runs.folder import CHECKPOINTS

SUMMARY_NAME = "summary.csv"
GALLERY_NAME = "gallery.html"
BAD_ROWS_NAME = "bad_rows.txt"

OWN_NAMES = (SUMMARY_NAME, GALLERY_NAME, BAD_ROWS_NAME, CHECKPOINTS)
"""Everything in a batch's folder other than the pairs' folders."""
