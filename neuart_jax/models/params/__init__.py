"""Where network parameters come from: files of others, or the two images themselves."""
