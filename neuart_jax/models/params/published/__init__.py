"""Published weights: search, download and verification."""
