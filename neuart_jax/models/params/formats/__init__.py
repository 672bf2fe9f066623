"""Files of others, read into the canonical form."""
