"""Bytes to arrays and back: files, paths, pictures."""
