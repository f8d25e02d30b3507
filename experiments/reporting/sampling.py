"""What few images add to a group's gradient norm and largest eigenvalue, and how readers are told that it is gone."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.reporting import series
from experiments.reporting.series import Estimate, over_seeds
from experiments.reporting.verdicts import alike
from jaxfair.intervals import FEW, FEW_FOR_NORM, Scale, over_seeds_and_examples

FREE = {"gradient_norm": "gradient_norm_corrected", "top_eigenvalue": "top_eigenvalue_equal_count"}
"""What is left of a quantity without the part that groups of few images have by sampling (``curvature.sampling``)."""

SAID = {"gradient_norm": "without its sampling part", "top_eigenvalue": "at the image count of the smallest group"}
"""How a quantity of ``FREE`` is free of it."""

PLAIN = "not corrected for sampling, which inflates it, more so on few images"
"""What is said of a quantity of ``FREE`` where its sampling was not measured."""

LEAST = {"gradient_norm": FEW_FOR_NORM, "top_eigenvalue": FEW}
"""Images of a group without which one seed has no interval of a quantity of ``FREE``: none would cover."""

MEANINGS = {
    "Gradient norm without its sampling part": "the same of the mean over all possible images: over n images its "
    "square is too large by the variance of a single image's gradient, summed over the parameters, / n. From inner "
    "products of gradients of disjoint blocks of images; 0 where these are negative. Its interval is over seeds and "
    "test images together.",
    "The same at equal counts": "the largest eigenvalue on as many images as the smallest group has, the mean of up to "
    "three draws: on few images it is too large, and only at equal counts equally so.",
}


def in_blocks(parts: Mapping[str, np.ndarray], name: str, group: int) -> np.ndarray | None:
    """Return a group's blocks of images, shape (seeds, blocks), whose spread is the noise of a norm or an eigenvalue.

    Args:
        parts: as ``free_of_sampling`` takes them.
        name: of the plain quantity.
        group: by number.

    Returns:
        None where these were not measured, or are too few.
    """
    if name not in parts:
        return None
    blocks = parts[name][:, group]
    blocks = blocks[:, np.isfinite(blocks).any(axis=0)]
    return blocks if (np.isfinite(blocks).sum(axis=1) > 1).all() else None


def free_of_sampling(
    by_group: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], name: str, overlap: np.ndarray | None = None
) -> Estimate:
    """Return a quantity of each group without its sampling part, with its interval over seeds and test images.

    Args:
        by_group: quantities, those of ``FREE`` among them where sampling was measured, shape (seeds, groups).
        parts: of the quantities of ``FREE``, shape (seeds, groups, blocks of images), whose means over blocks they are
            and whose spread is their noise; NaN beyond a group's blocks, and where a block is of another seed's images.
        name: of the plain quantity, one of ``parts``.
        overlap: for each group the share of a seed's test images that another seed has too; None where all seeds have
            the same blocks.

    Returns:
        Nothing known but the seeds for a group of too few images, and no interval where there is one seed.
    """
    found, counts = [], next((by_group[of] for of in ("curvature_count", "test_count") if of in by_group), None)
    for group, column in enumerate(by_group[FREE[name]].T):
        scale: Scale = "positive" if (column >= 0).all() else "real"  # what was taken off can be more than there was
        blocks, common = in_blocks(parts, name, group), None if overlap is None else [overlap[group]]
        if len(column) == 1 and counts is not None and counts[0, group] < LEAST[name]:
            found.append(Estimate(column.mean(), np.nan, np.nan))
        elif blocks is None:
            found.append(over_seeds(column, scale))
        else:
            found.append(series.of(over_seeds_and_examples([blocks], overlap=common), scale))
    return series.stack(found)


def eigenvalues_alike(
    parts: Mapping[str, np.ndarray], reference: int, names: Sequence[str], overlap: np.ndarray | None = None
) -> tuple[str, np.ndarray | None]:
    """Say so if no group's largest eigenvalue differs from the reference group's beyond noise, or if nobody knows.

    Args:
        parts: as ``free_of_sampling`` takes them, as is ``overlap``.
        reference: number of the group that the others are compared with.
        names: of the groups.
        overlap: share of test images that two seeds have in common.

    Returns:
        The sentence, and ``verdicts.order_beyond_noise``, None where nobody knows.
    """
    blocks = [in_blocks(parts, "top_eigenvalue", group) for group in range(len(names))]
    known = [found for found in blocks if found is not None]
    if len(known) < len(blocks):
        return "how far few images set the groups' eigenvalues apart was not measured for all of them", None
    return alike(known, reference, f"known to have a larger or smaller eigenvalue than {names[reference]}", overlap)
