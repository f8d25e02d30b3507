"""Gradients and curvature of every group's loss; knows no networks and no data sets."""
