"""From files to folders: single runs, batches, experiments."""
