"""Benchmarks: time and memory of evaluations, steps and starts, compared with PyTorch.

`benchmark` is the entry point. Nothing is imported here, as a measured process imports this package
and must not load more than a run does.
"""
