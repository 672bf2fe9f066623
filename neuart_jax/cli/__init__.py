"""The terminal: flags in, lines out."""
