"""Preprocessing and validation of a content/style pair, and postprocessing of the result."""
