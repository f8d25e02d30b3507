"""The toy examples of Das et al. 2024."""
