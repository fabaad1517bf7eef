"""What is read and written: model folders, files that are whole or not there, checksums, the Hub's client.

Nothing here knows of diffusion.
"""
