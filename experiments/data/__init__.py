"""Data sets looked at, and prepared for TFDS."""
