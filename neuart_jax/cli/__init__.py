"""The command line: flags in, lines out."""
