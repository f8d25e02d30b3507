"""Linearization methods: a network in, the same network with masks out."""
