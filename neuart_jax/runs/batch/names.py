"""What a batch calls its own files."""

from neuart_jax.runs.folder import CHECKPOINTS

SUMMARY_NAME = "summary.csv"
GALLERY_NAME = "gallery.html"
BAD_ROWS_NAME = "bad_rows.txt"

OWN_NAMES = (SUMMARY_NAME, GALLERY_NAME, BAD_ROWS_NAME, CHECKPOINTS)
"""All that a batch puts into its folder besides its pairs' folders."""
