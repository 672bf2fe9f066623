"""Optical flow between the frames of a clip, its reliability, and warping along it."""
