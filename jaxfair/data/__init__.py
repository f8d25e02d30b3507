"""Data sets: images with a label and a group each, and where they come from."""
