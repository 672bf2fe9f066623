"""The configuration of a run: settings with their ranges and defaults, and recipes."""
