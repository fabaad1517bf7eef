"""Converts models from and for other programs."""
