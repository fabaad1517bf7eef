"""Measures how good a model is: features of pictures, distances between sets of them, scores, and memorization."""
