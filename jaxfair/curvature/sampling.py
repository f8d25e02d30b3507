"""How much of a group's gradient norm and largest eigenvalue is that of its few examples, and what is the population's.

A mean over ``n`` examples has a gradient that is too long, ``E||g_n||^2 = ||g||^2 + tr(Cov) / n``, and a Hessian whose
largest eigenvalue is too large. So groups of unlike size, or of unlike spread, do not compare by either. A group is cut
at random into some thirty blocks; what the blocks' own gradients and products say of each other is free of that part.
"""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair import losses
from jaxfair.curvature import lanczos
from jaxfair.curvature.chunks import Cut, Devices, accumulate, zeros
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator, check_chunk_size, make_plan
from jaxfair.curvature.programs import LogitsFn, LossFn, Model, Programs, as_pytree, programs
from jaxfair.curvature.spectrum import (
    GroupCurvature,
    check_counts,
    check_examples,
    groups_at_once,
    search,
    start_vector,
)
from jaxfair.errors import JaxfairError
from jaxfair.intervals import FEW, FEW_FOR_NORM, Interval, students_t
from jaxfair.options import Seed, checked

BLOCKS, LEAST = 30, 4
"""Blocks of a group, at most, and at least for an interval; a group of 31 examples has 16, of 61 21."""
ALIKE = 0.85
"""Of the examples, the least effective number ``(sum w)^2 / sum w^2`` for an interval: of fewer ones it covers less."""
SLICE = 2**20  # parameters whose products are summed in float64 at once


class GradientSampling(NamedTuple):
    """What sampling does to the gradient norm of each group; arrays of shape (num_groups,).

    Attributes:
        norm: L2 norm of the gradient of the group's mean loss, as ``group_curvature`` has it.
        squared: Unbiased estimate of the squared norm that the mean over all possible examples has: the mean inner
            product of two blocks' gradients. It may come out negative. ``norm**2 - squared`` is the sampling part,
            which estimates ``tr(Cov) / n``. NaN for a group of one example.
        corrected: Square root of it, and 0 where it is negative.
        interval: 95 % interval of that norm, from 0 on; NaN for a group of less than ``FEW_FOR_NORM`` examples, or one
            whose examples have unlike weights (``ALIKE``).
        parts: For each group a value of each block, shape (blocks,), whose mean is ``corrected`` and whose spread is
            its noise to first order, by the jackknife: for differences and means of several norms; NaN where there is
            no interval.
        grams: Inner products of the blocks' gradients of each group, shape (blocks, blocks).
    """

    norm: np.ndarray
    squared: np.ndarray
    corrected: np.ndarray
    interval: Interval
    parts: tuple[np.ndarray, ...]
    grams: tuple[np.ndarray, ...]


class EigenvalueSampling(NamedTuple):
    """What sampling does to the largest eigenvalue of each group; arrays of shape (num_groups,).

    Attributes:
        interval: 95 % interval of the eigenvalue that the mean over all possible examples has; NaN for a group of less
            than ``intervals.FEW`` examples, or one whose examples have unlike weights (``ALIKE``). It does not contain
            the residual of the eigenvalue.
        standard_error: Of the eigenvalue, its eigenvector held fixed.
        bias: About by how much the eigenvalue is expected to be too large: ``tr Cov(H_b v) / (blocks * value)`` across
            the eigenvector, which is what second-order perturbation gives if all other eigenvalues are near 0, and too
            little if one is close to the largest.
        parts: Rayleigh quotients ``v . H_b v`` of the eigenvector in each block of each group, shape (blocks,).
    """

    interval: Interval
    standard_error: np.ndarray
    bias: np.ndarray
    parts: tuple[np.ndarray, ...]


class EqualCount(NamedTuple):
    """Largest eigenvalues of groups at one number of examples, which makes their bias alike.

    Attributes:
        count: Number of examples of the smallest group, and so of every draw.
        values: Of each group and draw, shape (num_groups, draws); NaN where a group has too few examples for as many
            draws that share none.
        residuals: Of each of them, within which an eigenvalue of that draw lies.
        mean: Over the draws, shape (num_groups,).
        interval: 95 % interval of the mean of all possible draws, as ``eigenvalue_sampling`` has it; NaN where the
            draws of a group have less than ``intervals.FEW`` examples together.
        parts: For each group a value of each block of its draws, shape (blocks,), whose mean is ``mean`` and whose
            spread is its noise.
    """

    count: int
    values: np.ndarray
    residuals: np.ndarray
    mean: np.ndarray
    interval: Interval
    parts: tuple[np.ndarray, ...]


@checked
def gradient_sampling(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    *,
    blocks: int = BLOCKS,
    seed: Seed = 0,
    chunk_size: int | None = None,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> GradientSampling:
    """Separate every group's gradient norm into that of the population and what so few examples add.

    Each group is cut at random into blocks, whose mean gradients cost together one pass over the group. Those of
    different blocks are independent, so that the mean of their inner products is an unbiased estimate of ``||g||^2``
    (a U-statistic). Its variance is ``4 g'Sg + 2 tr(S^2)`` for the covariance S of the group's gradient; the interval
    holds every norm t with ``(squared - t^2)^2 <= q^2 (4 t^2 s^2 + 2 tr(S^2))``, where ``s^2`` is the variance along
    the group's gradient, ``tr(S^2)`` is unbiased too (Chen and Qin 2010), and q is Student's for blocks - 1 degrees of
    freedom. So it is right where the gradient is near 0 as well. Where a few examples carry the gradient, so that the
    blocks along it are skewed, q is larger at the upper end (Johnson 1978).

    All blocks' gradients of one group are held at once in the host's memory, and no more: ``blocks`` times the size of
    the parameters, less than a third of Lanczos' ``max_basis``. For very large networks give fewer blocks.

    Args:
        logits_fn: ``(params, x) -> logits``, deterministic and in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, or whatever ``loss`` takes, n examples along the first axis.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``.
        blocks: Number of blocks at most.
        seed: Of the random cut.
        chunk_size: Number of examples differentiated at once, at most; None leaves it to the size of the blocks.
        precision: Precision of matrix products on accelerators.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or types do not match, a group has no weight, a gradient is not finite, or less than four
            blocks or chunks of less than one example were asked for.

    Example:
        >>> import numpy as np
        >>> from jaxfair import gradient_sampling, group_weights
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 3, 60)
        >>> weights = group_weights(np.repeat([0, 1], 30), 2)
        >>> found = gradient_sampling(lambda w, x: x @ w, np.zeros((3, 3), np.float32), x, y, weights)
        >>> bool((found.corrected < found.norm).all())
        True
    """
    params, x, y, rows = _checked(logits_fn, params, x, y, weights, loss)
    cut = _checked_cut(rows, blocks, seed)
    problem = _problem(logits_fn, params, x, y, precision, loss)
    size = _chunk_size(cut, chunk_size)
    found = []
    for group, ((share, own), row) in enumerate(zip(cut, rows, strict=True)):
        gram = _gram(_of_each_block(problem, own, size, _gradient))
        if not np.isfinite(gram).all():
            raise JaxfairError(f"A gradient of group {group} is not finite; check the inputs and the parameters.")
        numbers, parts = _norms(gram, share), np.full(len(gram), np.nan)
        if _effective(row) >= FEW_FOR_NORM:
            parts = _parts(gram, numbers[1])
        else:
            numbers = (*numbers[:2], np.nan, np.nan)
        found.append((numbers, parts, gram))
    norm, squared, low, high = np.array([numbers for numbers, *_ in found]).T
    parts, grams = tuple(parts for _, parts, _ in found), tuple(gram for *_, gram in found)
    return GradientSampling(norm, squared, np.sqrt(np.maximum(squared, 0.0)), Interval(low, high), parts, grams)


@checked
def eigenvalue_sampling(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    found: GroupCurvature,
    *,
    blocks: int = BLOCKS,
    seed: Seed = 0,
    chunk_size: int | None = None,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> EigenvalueSampling:
    """Say how far every group's largest eigenvalue is from the population's, at the cost of one product a group.

    To first order an eigenvalue moves with its Hessian by ``v . dH v`` (the infinitesimal jackknife), so its standard
    error is that of the blocks' Rayleigh quotients of the eigenvector, and its interval is Student's t. It holds for a
    simple eigenvalue: of several equal ones the largest found is too large by more than that. A positive one has its
    interval on the scale of its logarithm, with Johnson's (1978) correction for skewed quotients at its upper end.

    Args:
        logits_fn: This and all other arguments but ``found`` are those of ``gradient_sampling``.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, or whatever ``loss`` takes, n examples along the first axis.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``.
        found: What ``group_curvature`` returned for these groups when it was told ``vectors=True``.
        blocks: Number of blocks at most.
        seed: Of the random cut.
        chunk_size: Number of examples differentiated at once, at most; None leaves it to the size of the blocks.
        precision: Precision of matrix products on accelerators.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or types do not match, or ``found`` has no eigenvectors of these groups.

    Example:
        >>> import numpy as np
        >>> from jaxfair import eigenvalue_sampling, group_curvature, group_weights
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(120, 3)).astype(np.float32), rng.integers(0, 3, 120)
        >>> weights = group_weights(np.repeat([0, 1], 60), 2)
        >>> model = (lambda w, x: x @ w), np.zeros((3, 3), np.float32)
        >>> found = group_curvature(*model, x, y, weights, vectors=True)
        >>> interval = eigenvalue_sampling(*model, x, y, weights, found).interval
        >>> bool((interval.low < found.top_eigenvalue).all())
        True
    """
    params, x, y, rows = _checked(logits_fn, params, x, y, weights, loss)
    cut = _checked_cut(rows, blocks, seed)
    problem = _problem(logits_fn, params, x, y, precision, loss)
    if found.vectors.shape != (len(rows), problem.size):
        raise JaxfairError(
            f"There are no eigenvectors of {len(rows)} groups and {problem.size} parameters; give what group_curvature "
            "returns for them with vectors=True."
        )
    size, known, ends = _chunk_size(cut, chunk_size), [], []
    scale, residuals = np.abs(found.top_eigenvalue).max(), found.top_eigenvalue_residual
    for group, (value, vector, (share, own)) in enumerate(zip(found.top_eigenvalue, found.vectors, cut, strict=True)):
        known.append(_quotients(_products(problem, own, size, vector), vector, float(value), share))
        if not abs(share @ known[-1][-1] - value) <= 2 * residuals[group] + 1e-3 * scale:
            raise JaxfairError(
                f"The eigenvector of group {group} has the quotient {share @ known[-1][-1]:.4g} on its examples, not "
                f"{value:.4g}; give what group_curvature found for these very groups and parameters."
            )
        ends.append(_eigenvalue_interval(float(value), known[-1][-1], 1, _effective(rows[group])))
    error, bias = np.array([numbers[:-1] for numbers in known]).T
    return EigenvalueSampling(Interval(*np.array(ends).T), error, bias, tuple(parts for *_, parts in known))


@checked
def equal_count_eigenvalues(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    config: CurvatureConfig = CurvatureConfig(tolerance=1e-2),
    *,
    draws: int = 5,
    seed: Seed = 0,
    loss: LossFn = losses.cross_entropy,
) -> EqualCount:
    """Compute every group's largest Hessian eigenvalue on as many examples as the smallest group has.

    The largest eigenvalue of a mean of ``n`` examples' Hessians is biased upwards, the more the smaller n is. At one n
    groups of one population have one expectation, so that these values compare. The draws of a group share no example:
    a group less than twice as large as the smallest has one. The first draw is searched from a random vector, the next
    ones from the eigenvector of the one before plus noise of the same length. One more product over the draws gives the
    interval.

    Args:
        logits_fn: ``(params, x) -> logits``, deterministic and in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, or whatever ``loss`` takes, n examples along the first axis.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``; an example
            counts in a draw as it does in its group.
        config: How the eigenvalues are found, and how precisely; ``start`` and ``bottom`` say nothing here.
        draws: Number of draws of each group at most.
        seed: Of the draws.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or types do not match, a group has no weight, or there are less than one draw.

    Example:
        >>> import numpy as np
        >>> from jaxfair import equal_count_eigenvalues, group_weights
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 3, 60)
        >>> weights = group_weights(np.repeat([0, 1], 30), 2)
        >>> found = equal_count_eigenvalues(lambda w, x: x @ w, np.zeros((3, 3), np.float32), x, y, weights, draws=1)
        >>> found.count
        30
    """
    once = dataclasses.replace(config, start="random", bottom=False)
    check_counts(once, params)
    params, x, y, rows = _checked(logits_fn, params, x, y, weights, loss)
    if draws < 1:
        raise JaxfairError(f"There are {draws} draws; give at least 1.")
    sizes = (rows != 0).sum(axis=1)
    count, most = int(sizes.min()), int(sizes.max())
    drawn = [_draws(row, count, draws, seed) for row in rows]
    values, residuals = np.full((2, len(rows), draws), np.nan)
    vectors = []
    for group, found in enumerate(_of_draws(logits_fn, params, x, y, drawn, most, once, loss)):
        values[group, : len(found)] = [result.values[0] for result in found]
        residuals[group, : len(found)] = [result.residuals[0] for result in found]
        vectors.append([np.asarray(result.vectors[0]) for result in found])
    problem = _problem(logits_fn, params, x, y, once.precision, loss)
    cut = [_checked_cut(found, max(LEAST, BLOCKS // len(found)), seed) for found in drawn]
    size = _chunk_size([own for found in cut for own in found], once.chunk_size)
    parts, mean, ends = [], np.nanmean(values, axis=1), []
    for group, (found, of_draws) in enumerate(zip(cut, vectors, strict=True)):
        quotients = [
            _quotients(_products(problem, own, size, vector), vector, value, share)[-1]
            for (share, own), vector, value in zip(found, of_draws, values[group], strict=False)
        ]
        centred = [own - own.mean() + value for own, value in zip(quotients, values[group], strict=False)]
        parts.append(np.concatenate(centred))
        examples = sum(_effective(row) for row in drawn[group])
        ends.append(_eigenvalue_interval(mean[group], parts[-1], len(found), examples))
    return EqualCount(count, values, residuals, mean, Interval(*np.array(ends).T), tuple(parts))


def _checked(logits_fn: Any, params: Any, x: Any, y: Any, weights: Any, loss: Any) -> tuple[Any, Any, Any, np.ndarray]:
    """Return what ``check_examples`` does, of groups that are means: of others nothing is known of a population."""
    params, x, y, rows = check_examples(logits_fn, params, x, y, weights, loss)
    odd = (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1) > 1e-4)
    if odd.any():
        group = int(np.argmax(odd))
        raise JaxfairError(
            f"The weights of group {group} sum to {rows[group].sum():.3g}, or some are below 0; sampling is of means: "
            "give weights that sum to 1, as group_weights does."
        )
    return params, x, y, rows


def _effective(row: np.ndarray) -> int:
    """Return how many examples a group has for an interval: none, if their weights are unlike."""
    count = int(np.count_nonzero(row))
    return count if row.sum() ** 2 >= ALIKE * count * (row**2).sum() else 0


def _draws(row: np.ndarray, count: int, draws: int, seed: int) -> np.ndarray:
    """Return the weights of draws of ``count`` examples that share none, shape (draws, n)."""
    members = np.random.default_rng(seed).permutation(np.flatnonzero(row))
    found = np.zeros((min(draws, len(members) // count), len(row)))
    for i, part in enumerate(found):
        chosen = members[i * count : (i + 1) * count]
        part[chosen] = row[chosen] / row[chosen].sum()
    return found


def _of_draws(
    logits_fn: Any, params: Any, x: Any, y: Any, drawn: Any, most: int, config: CurvatureConfig, loss: Any
) -> list[list[lanczos.EigenResult]]:
    """Return for each group the largest eigenvalue and eigenvector of each draw; the largest group has ``most``."""
    logits_fn, loss, y = as_pytree(logits_fn), as_pytree(loss), jnp.asarray(y)
    count = int((drawn[0][0] != 0).sum())
    known: dict[str, Any] = {"memory": config.memory, "precision": config.precision, "loss": loss}
    plan = make_plan(logits_fn, params, x, y, count=most, chunk_size=config.chunk_size, **known)
    if plan.chunk_size > 2 * count:  # otherwise the programs are those that the whole groups have used
        plan = make_plan(logits_fn, params, x, y, count=count, chunk_size=config.chunk_size, **known)
    noise = start_vector(params, config.seed)

    def searched(rows: np.ndarray) -> Generator[None, None, list[lanczos.EigenResult]]:
        start, found = noise, []
        for row in rows:
            operator = GroupOperator(logits_fn, params, x, y, row.astype(noise.dtype), plan, **known)
            result = yield from search(operator.product, start, config, vectors=True)
            start = result.vectors[0] + noise / lanczos.norm(noise)
            found.append(result._replace(vectors=np.asarray(result.vectors)))
        return found

    at_once = groups_at_once(plan, np.stack([rows[0] for rows in drawn]), config, noise.nbytes)
    return lanczos.in_step(map(searched, drawn), at_once)


def _eigenvalue_interval(value: float, parts: np.ndarray, draws: int, examples: int) -> tuple[float, float]:
    """Return the ends for an eigenvalue whose blocks' quotients are ``parts``, centred in each of some draws."""
    freedom = len(parts) - draws
    if examples < FEW or not freedom:
        return np.nan, np.nan
    error = np.sqrt(((parts - parts.mean()) ** 2).sum() / freedom / len(parts))
    q = students_t(freedom)
    # The logarithm reaches further upwards by itself, for which half of the correction is left.
    longer = q + _skewed(parts, q) / 2
    if value <= 0:
        return value - q * error, value + longer * error
    return value * np.exp(-q * error / value), value * np.exp(longer * error / value)


def _skewed(parts: np.ndarray, q: float) -> float:
    """Return how many standard errors the upper end of the mean of skewed parts is further away (Johnson 1978).

    A sample of a long upper tail that happens to lack it has a mean and a standard error that are both too small.
    """
    count, apart = len(parts), parts - parts.mean()
    if count < LEAST or not apart.any():
        return 0.0
    skewness = (apart**3).mean() / (apart**2).mean() ** 1.5 * np.sqrt(count * (count - 1)) / (count - 2)
    return float(max(skewness, 0.0) * (2 * q**2 + 1) / (6 * np.sqrt(count)))


class _Problem(NamedTuple):
    """A network and examples, as the compiled functions take them; the network once on every device."""

    networks: list[tuple[Model, Any]]
    devices: Devices
    programs: Programs
    x: Any
    y: Any
    size: int
    dtype: Any


def _problem(logits_fn: LogitsFn, params: Any, x: Any, y: Any, precision: str, loss: LossFn) -> _Problem:
    devices, leaves = Devices(), jax.tree.leaves(params)
    networks = devices.copies((Model(as_pytree(logits_fn), as_pytree(loss)), params))
    compiled = programs(jax.default_backend(), precision)
    size, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
    return _Problem(networks, devices, compiled, x, jnp.asarray(y), size, dtype)


def _checked_cut(rows: np.ndarray, blocks: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each group the blocks' shares of it, shape (b,), and the weights of the blocks' means, (b, n)."""
    if blocks < LEAST:
        raise JaxfairError(f"There are {blocks} blocks; give at least {LEAST}.")
    found = []
    for row in rows:
        members = np.random.default_rng(seed).permutation(np.flatnonzero(row))
        each = -(-len(members) // blocks)
        parts = np.zeros((-(-len(members) // each), len(row)))
        for part, some in zip(parts, np.array_split(members, len(parts)), strict=True):
            part[some] = row[some]
        totals = parts.sum(axis=1)
        found.append((totals / totals.sum(), parts / totals[:, None]))
    return found


def _chunk_size(cut: list[tuple[np.ndarray, np.ndarray]], most: int | None) -> int:
    """Return the one number of examples of a program's call, up to ``most``, that wastes least on all groups' blocks.

    Blocks are small: by chunks that suit whole groups they would mostly be padding.
    """
    check_chunk_size(most)
    sizes = np.concatenate([np.count_nonzero(parts, axis=1) for _, parts in cut])
    call, largest = (4, 32) if jax.default_backend() == "cpu" else (64, 64)  # what a call costs beside, in examples
    candidates = [2**k for k in range(int(np.log2(largest)) + 1)]
    best = min(candidates, key=lambda size: (-(-sizes // size) * (size + call)).sum())
    return best if most is None else min(best, most)


def _gradient(problem: _Problem, total: Any, copy: int, chunk: Any) -> Any:
    before = zeros((), problem.dtype), total
    return problem.programs.loss_and_gradient(before, *problem.networks[copy], chunk)[1]


def _products(problem: _Problem, parts: np.ndarray, size: int, vector: np.ndarray) -> np.ndarray:
    """Return the product of every block's Hessian with a vector, shape (blocks, p)."""
    vectors = problem.devices.copies(jnp.asarray(vector, problem.dtype))

    def step(problem: _Problem, total: Any, copy: int, chunk: Any) -> Any:
        return problem.programs.product("hessian", total, *problem.networks[copy], chunk, vectors[copy])

    return _of_each_block(problem, parts, size, step)


def _of_each_block(problem: _Problem, parts: np.ndarray, size: int, step: Callable[..., Any]) -> np.ndarray:
    """Return the sum of each block, shape (blocks, p), on the host; blocks go round the cores or devices."""
    found = np.empty((len(parts), problem.size), problem.dtype)

    def fill(nothing: None, i: int) -> None:
        cut = Cut(problem.x, problem.y, parts[i].astype(problem.dtype), size)
        total = problem.devices.place(zeros((problem.size,), problem.dtype), i)
        for chunk in range(len(cut)):
            total = step(problem, total, i % problem.devices.count, problem.devices.place(cut[chunk], i))
        found[i] = total

    accumulate(fill, lambda: None, len(parts), problem.devices)
    return found


def _gram(vectors: np.ndarray) -> np.ndarray:
    """Return the inner products of rows, summed in float64."""
    gram = np.zeros((len(vectors), len(vectors)))
    for columns in _slices(vectors.shape[1]):
        part = vectors[:, columns].astype(np.float64)
        gram += part @ part.T
    return gram


def _slices(size: int) -> list[slice]:
    """Return slices of that many columns; of millions in float64 at once a few rows would fill the memory."""
    return [slice(begin, begin + SLICE) for begin in range(0, size, SLICE)]


def _norms(gram: np.ndarray, share: np.ndarray) -> tuple[float, float, float, float]:
    """Return the plain norm, the unbiased squared norm, and the interval of the norm (see ``gradient_sampling``)."""
    norm, count = float(np.sqrt(share @ gram @ share)), len(gram)
    if count < 2:
        return norm, np.nan, np.nan, np.nan
    apart = np.outer(share, share) * (1 - np.eye(count))
    squared = float((apart * gram).sum() / apart.sum())
    if count < LEAST:
        return norm, squared, np.nan, np.nan
    # Of each block with the mean gradient. Its own square among these makes their variance too large, and it is too
    # small without, in both cases where few examples carry the gradient; their mean is what covers in simulations.
    along, others = gram.mean(axis=1), (gram.sum(axis=1) - np.diag(gram)) / (count - 1)
    length = max(along.mean(), 0.01 * np.trace(gram) / count**2, np.finfo(float).tiny)  # a mean of 0 has no direction
    variance = (along.var(ddof=1) + others.var(ddof=1)) / 2 / length / count
    rest = np.sqrt(2 * max(_trace_of_square(gram), 0.0) / (count * (count - 1)))
    q, linear = students_t(count - 1), 4 * max(squared, 0.0) * variance
    longer = q + _skewed(along, q) * linear / max(linear + rest**2, np.finfo(float).tiny)
    seen = max(squared, -rest)  # far below 0 by chance, nothing would be left of the interval

    def end(sign: int, q: float) -> float:
        middle = seen + 2 * q**2 * variance
        reach = np.sqrt(max(middle**2 - seen**2 + q**2 * rest**2, 0.0))
        return float(np.sqrt(max(middle + sign * reach, 0.0)))

    return norm, squared, end(-1, q), end(1, longer)


def _parts(gram: np.ndarray, squared: float) -> np.ndarray:
    """Return a value of each block whose mean is the norm and whose variance over blocks is the jackknife's."""
    count = len(gram)
    if count < LEAST:
        return np.full(count, np.nan)
    others = (gram.sum(axis=1) - np.diag(gram)) / (count - 1)
    # Where the norm is not known to be above 0, its root has no slope; that at its own noise keeps it finite.
    noise = np.sqrt(2 * max(_trace_of_square(gram), 0.0) / (count * (count - 1)))
    root = np.sqrt(max(squared, noise, np.finfo(float).tiny))
    return np.sqrt(max(squared, 0.0)) + (others - others.mean()) * (count - 1) / (count - 2) / root


def _trace_of_square(gram: np.ndarray) -> float:
    """Return the unbiased estimate of ``tr(S^2)``, S the covariance of a block's gradient (Chen and Qin 2010).

    By means of ``G_jk^2``, ``G_jk G_kl`` and ``G_jk G_lm`` over different blocks.
    """
    count, apart = len(gram), gram * (1 - np.eye(len(gram)))
    rows, squares = apart.sum(axis=1), (apart**2).sum()
    two = squares / (count * (count - 1))
    chains = (rows**2).sum() - squares
    three = chains / (count * (count - 1) * (count - 2))
    four = (rows.sum() ** 2 - 2 * squares - 4 * chains) / (count * (count - 1) * (count - 2) * (count - 3))
    return float(two - 2 * three + four)


def _quotients(
    products: np.ndarray, vector: np.ndarray, value: float, share: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """Return the standard error of an eigenvalue, its bias, and the blocks' Rayleigh quotients."""
    vector, slices = np.asarray(vector, np.float64), _slices(len(vector))
    found = np.sum([products[:, columns].astype(np.float64) @ vector[columns] for columns in slices], axis=0)
    count, noise = len(found), 0.0
    if count < 2:
        return np.nan, np.nan, found
    error = float(np.sqrt(found.var(ddof=1) / count))
    for columns in slices:
        across = products[:, columns] - np.outer(found, vector[columns])
        noise += float(((across - share @ across) ** 2).sum()) / (count - 1) / count
    return error, noise / value if value > 0 else np.nan, found
