"""jaxfair: who loses when a network is changed after the fact, and why, in JAX."""
