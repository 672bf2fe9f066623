"""Runs from files to folders: single runs, batches and experiments."""
