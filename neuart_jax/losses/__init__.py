"""Losses on arrays: pure functions of features and pixels."""
