"""How good a model is: features of pictures, distances between sets of them, scores, and what a model remembers."""
