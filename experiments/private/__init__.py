"""Private inference of linearized networks: what a ReLU costs, and group accuracy under fixed-point arithmetic."""
