"""Filters that are fitted to pictures, or random."""
