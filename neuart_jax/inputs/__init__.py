"""Arrays to a checked pair of images, and back."""
