"""Moving pictures from and to files, one frame at a time: films, animations, numbered pictures."""
