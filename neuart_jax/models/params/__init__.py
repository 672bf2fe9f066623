"""Where network parameters come from: files of others, or the two pictures themselves."""
