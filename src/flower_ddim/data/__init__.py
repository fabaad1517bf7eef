"""Finds pictures for a training, decodes them once to uint8 pixels, and chooses those of every step."""
