"""Reading and writing clips, frame by frame: films, animations and numbered images."""
