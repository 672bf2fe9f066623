"""Published weights: found, fetched and checked."""
