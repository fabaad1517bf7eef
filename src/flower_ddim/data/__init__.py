"""Pictures for a training: found, decoded once to uint8 pixels, and dealt out by step."""
