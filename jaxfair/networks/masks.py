"""Masks: which units of a network are ReLUs and which are linear.

A masks pytree holds one array of shape (H, W, C) for each gate, shared over the batch: 1 is a ReLU, 0 is the identity.
Values between occur only while a method is still choosing. Every function here is pure and keeps the tree's structure.
"""

import re
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxfair.errors import JaxfairError, short
from jaxfair.options import checked

Masks = Any  # nested dict of Float[Array, "h w c"]


def unit_count(masks: Masks) -> int:
    """Return the number of units, ReLU or not."""
    return sum(leaf.size for leaf in _gates(masks))


def _gates(masks: Masks) -> list[Any]:
    """Return the gates' arrays, or raise a JaxfairError for a network, whose weights would be counted too."""
    if hasattr(masks, "masks"):
        raise JaxfairError(f"A {type(masks).__name__} was given for its masks; give network.masks.")
    return jax.tree.leaves(masks)


@checked
def relu_count(masks: Masks, *, threshold: float = 0.0) -> int:
    """Return the number of units whose value exceeds ``threshold`` (Cho et al. 2022 count alpha > 1e-2)."""
    return int(sum(np.count_nonzero(np.asarray(leaf) > threshold) for leaf in _gates(masks)))


@checked
def full(masks: Masks, value: float) -> Masks:
    """Return masks of the same shapes, every unit set to ``value`` (1: the ReLU network, 0: affine in its input)."""
    _gates(masks)
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), masks)


@checked
def keep_largest(masks: Masks, budget: int) -> Masks:
    """Return the 0/1 mask that keeps exactly the ``budget`` largest values.

    Ties are broken by position (earlier in the flattened tree first), so the result is the same on every device.

    Raises:
        JaxfairError: ``budget`` is not between 0 and the number of units.
    """
    check_budget(budget, unit_count(masks))
    return _largest(masks, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(masks)]), budget)


@checked
def keep_random(masks: Masks, budget: int, key: Key[Array, ""]) -> Masks:
    """Return a 0/1 mask with exactly ``budget`` units chosen uniformly at random: the baseline for any method.

    Raises:
        JaxfairError: ``budget`` is not between 0 and the number of units, or the key is none of ``jax.random``.
    """
    units = unit_count(masks)
    kind = getattr(key, "dtype", None)
    if kind is None or not (jnp.issubdtype(kind, jax.dtypes.prng_key) or (kind == jnp.uint32 and key.shape == (2,))):
        raise JaxfairError("The random key is none; give jax.random.key(seed).")
    check_budget(budget, units)
    return _largest(masks, np.asarray(jax.random.uniform(key, (units,))), budget)


def _largest(masks: Masks, values: np.ndarray, budget: int) -> Masks:
    """Return the mask of the units whose values, in the order of the flattened tree, are largest."""
    kept = np.zeros(len(values), values.dtype)
    kept[np.argsort(-values, kind="stable")[:budget]] = 1
    leaves, structure = jax.tree.flatten(masks)
    parts = np.split(kept, np.cumsum([leaf.size for leaf in leaves])[:-1])
    found = [jnp.asarray(part.reshape(leaf.shape), leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)


@checked
def above(masks: Masks, threshold: float = 1e-2) -> Masks:
    """Return the 0/1 mask of the units above ``threshold``: the authors' rule, which overshoots below the budget."""
    _gates(masks)
    return jax.tree.map(lambda leaf: (leaf > threshold).astype(leaf.dtype), masks)


def resolve_budgets(budgets: Any, units: int, method: str) -> list[int]:
    """Return the different budgets of a method as numbers of units, the largest first.

    Raises:
        JaxfairError: there is none, one is impossible (``resolve_budget``), or they are no list.
    """
    if not np.iterable(budgets) or isinstance(budgets, str):
        raise JaxfairError(f"The budgets are {budgets}; give a list, [{budgets}].")
    if not (given := list(budgets)):
        raise JaxfairError(f"{method} got no ReLU budget; give at least one, as a count or as a fraction of all units.")
    return sorted({resolve_budget(budget, units) for budget in given}, reverse=True)


def check_all_kept(masks: Masks, method: str) -> None:
    """Raise a JaxfairError unless every unit is a ReLU: a method that chooses among all would bring others back."""
    if relu_count(masks) < (units := unit_count(masks)):
        raise JaxfairError(
            f"The network has {relu_count(masks)} ReLUs in {units} units, and {method} chooses among all of them; "
            "start from the full network."
        )


@checked
def resolve_budget(budget: float, units: int) -> int:
    """Return a budget as a number of units: below 1 it is a fraction of ``units``, from 1 on a whole count.

    A budget of 0 is a network without ReLUs; a fraction above 0 is at least one unit.

    Raises:
        JaxfairError: not a number, negative, a fractional count, or more than ``units``.
    """
    if not np.isfinite(budget):
        raise JaxfairError(f"The ReLU budget is {budget}; give a fraction below 1 or a whole number of units.")
    if budget >= 1 and budget != int(budget):
        raise JaxfairError(f"The ReLU budget {budget} is neither a fraction below 1 nor a whole number of units.")
    if budget < 0:
        raise JaxfairError(f"The ReLU budget is {budget:g}; give 0 or more units, or a fraction below 1.")
    count = int(budget) if budget >= 1 else max(round(budget * units), int(budget > 0))
    check_budget(count, units)
    return count


def without_stages(masks: Masks, culled: Collection[int]) -> Masks:
    """Return the masks with every gate of the ``culled`` stages set to 0 (Jha et al. 2021, "culling")."""
    return _where(masks, lambda path: _stage(path) in culled)


def without_second_gates(masks: Masks) -> Masks:
    """Return the masks with the second gate of every block set to 0 (Jha et al. 2021, "thinning")."""
    return _where(masks, lambda path: "gate2" in path)


def _where(masks: Masks, zero) -> Masks:
    def leaf(path, value: Float[Array, "h w c"]):
        return jnp.zeros_like(value) if zero(jax.tree_util.keystr(path, simple=True, separator="/")) else value

    return jax.tree_util.tree_map_with_path(leaf, masks)


def _stage(path: str) -> int:
    match = re.search(r"stage(\d+)_", path)
    if match is None:
        raise JaxfairError(f"The mask '{path}' is in no stage; masks are named stage<n>_block<m>/gate<k>.")
    return int(match.group(1))


def check_budget(budget: int, units: int) -> None:
    """Raise a JaxfairError unless so many of the units can be kept."""
    if not 0 <= budget <= units:
        shown = short(str(budget), 30)  # which may have hundreds of digits
        raise JaxfairError(f"The ReLU budget is {shown}, but the network has {units} units; give 0 to {units}.")
