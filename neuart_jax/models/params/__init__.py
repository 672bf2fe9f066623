"""Network parameters: read from published files, or fitted to the images."""
