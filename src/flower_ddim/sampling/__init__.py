"""Many images from one model: by seeds, into folders, with other solvers, compiled."""
