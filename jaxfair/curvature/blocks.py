"""Gradient, curvature and Taylor terms of every group's loss, layer by layer.

A block of parameters is a set of coordinates. Its Hessian is the diagonal block of the whole one: a vector that is 0
outside of the block goes in, and what comes out is read inside of it. So the products, their compiled programs and kept
passes are those of the whole network for every block, and only Lanczos' vectors are as short as the block.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from jaxfair import losses
from jaxfair.curvature import lanczos
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator
from jaxfair.curvature.programs import LogitsFn, LossFn
from jaxfair.curvature.spectrum import check_counts, check_examples, eigenvalues, group_losses, start_vector
from jaxfair.errors import JaxfairError
from jaxfair.models import asking, check_parameters, step_between, tree_difference
from jaxfair.options import checked

Blocks = Literal["layer", "array"] | Callable[[str], str]
"""``layer``: the arrays of one module; ``array``: each alone; or a function from an array's path to a block's name."""


class BlockCurvature(NamedTuple):
    """What is known of each group and block; arrays of shape (groups, blocks), losses in nats.

    Attributes:
        names: Names of the blocks, in the order of the parameters.
        size: Number of parameters of each block, shape (blocks,).
        gradient_norm: L2 norm of the gradient's part; in squares they add up to the whole gradient's.
        top_eigenvalue: Largest (algebraic) eigenvalue of the diagonal block of the Hessian, at most that of the whole;
            NaN without ``config``.
        top_eigenvalue_residual: Distance from that value within which an eigenvalue of the block lies.
        bottom_eigenvalue: Smallest (algebraic) eigenvalue of the block; NaN unless asked for.
        bottom_eigenvalue_residual: Distance from that value within which an eigenvalue of the block lies.
        converged: Whether Lanczos met its stopping rule; False without ``config``.
        steps: Number of Hessian products.
        first: ``g_b . d_b`` for the change ``d`` of the parameters to ``after``; the blocks' add up to the whole term.
            NaN without ``after``, like the next two.
        second: ``1/2 d_b . (H d)_b``, which adds up to the whole term: it holds half of each cross term.
        alone: ``1/2 d_b^T H_bb d_b``, what the block's change alone would add; the sum of ``second`` less that of
            ``alone`` is the cross terms.
    """

    names: tuple[str, ...]
    size: np.ndarray
    gradient_norm: np.ndarray
    top_eigenvalue: np.ndarray
    top_eigenvalue_residual: np.ndarray
    bottom_eigenvalue: np.ndarray
    bottom_eigenvalue_residual: np.ndarray
    converged: np.ndarray
    steps: np.ndarray
    first: np.ndarray
    second: np.ndarray
    alone: np.ndarray


@checked
def block_curvature(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    config: CurvatureConfig | None = CurvatureConfig(tolerance=1e-2),
    *,
    blocks: Blocks = "layer",
    after: Any = None,
    loss: LossFn = losses.cross_entropy,
) -> BlockCurvature:
    """Compute which layer's parameters carry each group's gradient, curvature and Taylor terms.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), deterministic and in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, integers of shape (n,), or what ``loss`` takes.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``.
        config: How each block's eigenvalues are found; None leaves them out, and with them nearly all of the time.
            ``start="coarse"`` is the gradient start here.
        blocks: Which arrays are one block (``Blocks``); by default those of one layer, such as kernel and bias.
        after: Parameters after a change, of the same structure, for the Taylor terms; None leaves them out.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or types do not match, a group has no weight, or there is no such rule for blocks.

    Example:
        >>> import numpy as np
        >>> from jaxfair import block_curvature
        >>> params = {"first": {"kernel": np.eye(2)}, "second": {"kernel": np.eye(2), "bias": np.zeros(2)}}
        >>> def logits_fn(params, x):
        ...     return x @ params["first"]["kernel"] @ params["second"]["kernel"] + params["second"]["bias"]
        >>> found = block_curvature(logits_fn, params, 2 * np.eye(2), np.array([0, 1]), np.full((1, 2), 0.5))
        >>> found.names, found.size.tolist(), found.gradient_norm.round(3).tolist()
        (('first', 'second'), [4, 6], [[0.238, 0.238]])
    """
    params, x, y, rows = check_examples(logits_fn, params, x, y, weights, loss)
    members, step = _members(params, blocks), None
    settings = CurvatureConfig() if config is None else config
    for member in members.values():
        check_counts(_of_block(settings, member), member)
    if after is not None:
        if reason := tree_difference(params, after):
            raise JaxfairError(f"There are no terms for what is not the same network's: {reason}.")
        check_parameters(after)
        step = step_between(params, after)
    noise, found = np.asarray(start_vector(params, settings.seed)), []
    for group in group_losses(logits_fn, params, x, y, rows, settings, loss=loss):
        gradient, operator = np.asarray(group.gradient), group.operator
        spectra = [_eigenvalues(operator, member, noise, gradient, config) for member in members.values()]
        found.append(np.vstack([[lanczos.norm(gradient[m]) for m in members.values()], np.transpose(spectra),
                                _terms(operator, members, gradient, step)]))  # fmt: skip
    norm, top, top_residual, bottom, bottom_residual, converged, steps, *terms = np.moveaxis(np.array(found), 1, 0)
    size = np.array([member.size for member in members.values()])
    return BlockCurvature(
        tuple(members), size, norm, top, top_residual, bottom, bottom_residual, converged > 0, steps.astype(int), *terms
    )


def _members(params: Any, blocks: Blocks) -> dict[str, np.ndarray]:
    """Return the coordinates of each block in the flat vector of parameters, by its name."""
    if not callable(blocks) and blocks not in get_args(get_args(Blocks)[0]):
        raise JaxfairError(f"There is no rule '{blocks}' for blocks; give layer, array, or a function of paths.")
    found: dict[Any, list[np.ndarray]] = {}
    start = 0
    for path, leaf in _arrays(params):
        block = path
        if callable(blocks):
            with asking("blocks(path)", "a function from an array's path, a text such as 'head/kernel', to a name"):
                block = str(blocks(_named(path)))
        elif blocks == "layer":
            block = path[:-1] or path  # an array in no module is a layer of its own
        found.setdefault(block, []).append(np.arange(start, start + leaf.size))
        start += leaf.size
    whole = {block: np.concatenate(several) for block, several in found.items()}
    whole = {block: member for block, member in whole.items() if member.size}
    if callable(blocks):
        return whole
    times = Counter(map(_named, whole))  # a slash in a name looks like a path
    return {_named(block) if times[_named(block)] == 1 else keystr(block): own for block, own in whole.items()}


def _named(path: tuple) -> str:
    return keystr(path, simple=True, separator="/") or "params"


def _arrays(params: Any) -> Iterator[tuple[tuple, Any]]:
    """Yield the path of each array and the array; one in a box of Flax, of NNX or nn.Partitioned, has the box's path.

    Both kinds of box can be given an axis; what else has a field of that name, such as ``value``, is a module.
    """

    def is_box(node: Any) -> bool:
        return hasattr(type(node), "add_axis")

    for path, node in tree_flatten_with_path(params, is_leaf=is_box)[0]:
        for within, leaf in tree_flatten_with_path(node)[0]:
            yield path + within[1:], leaf


def _restricted(operator: GroupOperator, member: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the product of the diagonal block of some coordinates with a vector of their number."""
    whole = np.zeros(operator.size, vector.dtype)
    whole[member] = vector
    return np.asarray(operator(whole))[member]


def _of_block(config: CurvatureConfig, member: np.ndarray) -> CurvatureConfig:
    """Return the settings for one block: one of a single parameter has one eigenvalue."""
    return dataclasses.replace(config, bottom=config.bottom and member.size > 1)


def _eigenvalues(
    operator: GroupOperator, member: np.ndarray, noise: np.ndarray, gradient: np.ndarray, config: CurvatureConfig | None
) -> tuple[float, float, float, float, float, float]:
    """Return a block's largest eigenvalue and residual, the smallest and residual, whether converged, and steps."""
    if config is None:
        return np.nan, np.nan, np.nan, np.nan, 0.0, 0.0
    start, length = noise[member], lanczos.norm(gradient[member])
    if config.start != "random" and length > 0:
        start = gradient[member] / length + start / lanczos.norm(start)
    result = eigenvalues(lambda v: _restricted(operator, member, v), start, _of_block(config, member))
    top, bottom = ((float(result.values[end]), float(result.residuals[end])) for end in (0, -1))
    return *top, *(bottom if config.bottom else (np.nan, np.nan)), float(result.converged), float(result.steps)


def _terms(
    operator: GroupOperator, members: dict[str, np.ndarray], gradient: np.ndarray, step: np.ndarray | None
) -> np.ndarray:
    """Return the first terms, the second ones, and those of each block's change alone, shape (3, blocks)."""
    if step is None:
        return np.full((3, len(members)), np.nan)
    curved, d, g = np.asarray(operator(step), float), step.astype(float), gradient.astype(float)
    first = [g[m] @ d[m] for m in members.values()]
    second = [d[m] @ curved[m] / 2 for m in members.values()]
    alone = [d[m] @ _restricted(operator, m, step[m]).astype(float) / 2 for m in members.values()]
    return np.array([first, second, alone])
