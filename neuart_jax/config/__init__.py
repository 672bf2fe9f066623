"""What a run is: settings, their ranges and defaults, and recipes."""
