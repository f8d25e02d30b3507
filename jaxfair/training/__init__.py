"""Training of networks, with and without mitigation."""
