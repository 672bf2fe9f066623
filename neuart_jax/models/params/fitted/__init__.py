"""Filters that are fitted to images, or random."""
