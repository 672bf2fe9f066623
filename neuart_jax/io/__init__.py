"""Bytes to arrays and back: files, paths, images."""
