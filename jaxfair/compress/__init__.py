"""Compression: weights removed or rounded; a network in, the same network with other weights out."""
