"""Readers of weights files in other formats, into the canonical form."""
