"""Planning and running: from a pair and a configuration, through a compiled loop, to an image."""
