"""Sharing on the Hugging Face Hub: a checked folder with its card, and a Space."""
