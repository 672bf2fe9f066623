"""Untrained filters: fitted to images, or random."""
