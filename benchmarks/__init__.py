"""How fast: seconds and memory of evaluations, steps and starts, beside PyTorch's.

`benchmark` is the way in. Nothing is imported here, since a measured process enters by this package
and must not load more than a run does.
"""
