"""What curvature is told; read by command lines, so without JAX."""

import dataclasses
from typing import Literal

from jaxfair.options import Count, Natural, Options, Seed, Tolerance

Start = Literal["random", "gradient", "coarse"]
Stop = Literal["residual", "error"]


@dataclasses.dataclass(frozen=True)
class CurvatureConfig(Options):
    """How a group's eigenvalues are found, and how precisely.

    Attributes:
        bottom: Whether to find the smallest eigenvalue too, to ``tolerance`` times the largest. It usually takes
            several times as many products.
        tolerance: Error at which Lanczos stops, relative to the eigenvalue (``lanczos.extreme_eigenvalues``).
        stop: ``residual`` compares a bound of the error with the tolerance; ``error`` compares an estimate of the error
            of a value that is one step ahead (``lanczos.extreme_eigenvalues``), for about one product less; what has
            converged is a lesser eigenvalue more often, in up to 3 % of simulated spectra.
        start: ``random`` misses the largest eigenvalue with probability zero. ``gradient`` (plus noise of the same
            length) usually needs a third fewer products, since the gradient lies close to the outlier eigenvectors,
            but can stop at a lesser eigenvector that the gradient happens to lie along. ``coarse`` starts in turn from
            the eigenvector of a random eighth of the group, found from a gradient start: the fewest products and the
            same risk. For a group whose eighth has less than 100 examples, or that is less
            than eight chunks, it is the gradient start.
        max_steps: Number of Hessian-vector products at most, for each group.
        max_basis: Number of Lanczos vectors kept at once, each as large as the parameters.
        chunk_size: Number of examples differentiated at once; None chooses by ``memory`` and backend.
        memory: Bytes that kept primal passes may take on each device; what does not fit is recomputed, with the same
            result but for rounding. None is 1 GiB on a CPU and a quarter of an accelerator's memory.
        seed: Seed of the random start vector, which is the same for all groups.
        precision: Precision of matrix products on accelerators; ``highest`` is full float32.
        at_once: Number of groups whose searches go on in turn, a product each, so that an accelerator computes for some
            while the host decides about others; each keeps its own passes and Lanczos vectors, and finds the same bits
            as alone. None is as many as fit into ``memory`` on an accelerator, and 1 on a CPU.

    Raises:
        JaxfairError: A name is unknown, or the tolerance is not from 0 to below 1.

    Example:
        >>> from jaxfair import CurvatureConfig
        >>> CurvatureConfig(tolerance=1e-2, bottom=True).max_steps
        100
    """

    bottom: bool = False
    tolerance: Tolerance = 1e-3
    stop: Stop = "residual"
    start: Start = "random"
    max_steps: int = 100
    max_basis: int = 100
    chunk_size: int | None = None
    memory: Natural | None = None
    seed: Seed = 0
    precision: str = "highest"
    at_once: Count | None = None

    def __post_init__(self) -> None:
        """Refuse what no computation could follow."""
        super().__post_init__()
        from jaxfair.curvature.programs import at_precision  # of JAX, which knows the names

        at_precision(self.precision)
