"""Reading and writing: files, paths, images."""
