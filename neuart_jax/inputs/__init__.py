"""Arrays to a checked pair of pictures, and back."""
