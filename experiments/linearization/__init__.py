"""The linearization study (Das et al. 2024)."""
