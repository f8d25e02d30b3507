"""Finished analyses of networks by label, seed and group: arrays, differences, statistics, figures and pages."""
