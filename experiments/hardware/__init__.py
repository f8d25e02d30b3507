"""The hardware study (Nelaturu et al. 2024)."""
