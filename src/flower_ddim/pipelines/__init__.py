"""The pipeline: pictures in and out, generation, interpolation, inversion, and folders that hold their own code."""
