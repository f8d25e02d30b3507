"""Mitigation: what a training step minimises instead of the mean loss, with group labels or without them.

A step calls ``objective`` on the losses of its batch and keeps the state that it returns; after the last batch of an
epoch ``end_epoch`` lets the Lagrangian's multipliers grow. All of it works under ``jit``, ``grad``, ``vmap`` over seeds
and ``scan``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxfair.errors import JaxfairError
from jaxfair.margins import gap
from jaxfair.training.config import Distance, Method, MitigationConfig

LAGRANGIAN: tuple[Method, ...] = ("lagrangian", "lagrangian-detached", "lagrangian-published")
"""Methods with multipliers that grow; of all but the first the penalty has no gradient."""

GRID = 8
"""Rows and columns of the averaged image that the adversary sees.

With three channels that is 192 features, as an encoded table may have. Adagrad moves every weight at about the same
speed, so with all pixels of a 64 x 64 image the adversary's output would move 64 times as fast at the same rate; and
a random crop moves single pixels, but hardly the average of many.
"""


class Adversary(NamedTuple):
    """The weights of a linear function of input and label; those of the one-hot label hold the intercept.

    Attributes:
        features: the weights of ``adversary_features``, shape (f,).
        label: the weights of the one-hot label, shape (classes,).
    """

    features: Array
    label: Array


class State(NamedTuple):
    """What mitigation changes while it trains; None for what the method does not need.

    Attributes:
        multipliers: the factor on each group's gap, shape (groups,), not negative: the Lagrangian's gamma, or the
            constant lambda of ``alignment``.
        violation: ``|L(D_a) - L(D)|`` of each group, summed over this epoch's batches, shape (groups,).
        adversary: the weights of the adversary of ``arl``.
        adversary_opt: the state of the adversary's optimizer.
    """

    multipliers: Array | None = None
    violation: Array | None = None
    adversary: Adversary | None = None
    adversary_opt: Any = None


def check_config(config: MitigationConfig, num_groups: int) -> None:
    """Raise a JaxfairError if nothing can be mitigated by this configuration in so many groups."""
    numbers = (config.rate, config.adversary_rate, config.weight)
    if not (0 < config.level <= 1 and all(0 <= number < np.inf for number in numbers)):
        raise JaxfairError(
            f"The CVaR level is {config.level}, the multipliers' rate {config.rate}, the adversary's learning rate "
            f"{config.adversary_rate} and the alignment's weight {config.weight}; give a level in (0, 1], and finite "
            "rates and weight that are not negative."
        )
    if config.method in (*LAGRANGIAN, "alignment") and num_groups < 2:
        raise JaxfairError(
            f"Mitigation '{config.method}' compares groups, but the data has {num_groups}; "
            "give the images groups, or choose cvar or arl, which need none."
        )


def init(config: MitigationConfig, *, num_groups: int, num_classes: int, input_shape: tuple[int, ...]) -> State:
    """Return the state before the first step: growing multipliers and the adversary's weights are 0.

    An adversary of zeros gives every example the same weight. It is linear, so there is no symmetry to break by chance.

    Args:
        config: the method.
        num_groups: the number of groups of the data.
        num_classes: the number of classes of the labels.
        input_shape: the shape of one input: (height, width, channels) of an image, or that of any other array.

    Raises:
        JaxfairError: the configuration is impossible.
    """
    check_config(config, num_groups)
    if config.method in LAGRANGIAN:
        return State(multipliers=jnp.zeros(num_groups), violation=jnp.zeros(num_groups))
    if config.method == "alignment":
        return State(multipliers=jnp.full(num_groups, config.weight))
    if config.method == "arl":
        seen = jax.eval_shape(adversary_features, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
        adversary = Adversary(jnp.zeros(seen.shape[1]), jnp.zeros(num_classes))
        return State(adversary=adversary, adversary_opt=optax.adagrad(config.adversary_rate).init(adversary))
    return State()


def objective(
    config: MitigationConfig,
    state: State,
    loss: Float[Array, " b"],
    group: Int[Array, " b"],
    label: Int[Array, " b"],
    inputs: Float[Array, "b ..."],
    *,
    logits: Float[Array, "b c"] | None = None,
) -> tuple[Float[Array, ""], State]:
    """Return the scalar to minimise on a batch of b examples, by ``state`` as it was before it, and the state after it.

    The new state depends on no gradient, so it is an auxiliary output under ``jax.value_and_grad``.

    Args:
        config: the method.
        state: the state that ``init``, the step before or ``end_epoch`` returned.
        loss: the loss of each example, whatever training minimises (cross-entropy and distillation).
        group: the group of each example, 0..groups-1; only the Lagrangian methods and ``alignment`` look at it.
        label: the class of each example, 0..classes-1; only ``arl`` looks at it.
        inputs: what the network sees, normalized; only ``arl`` looks at it.
        logits: the logits from which ``loss`` was computed; only ``alignment`` looks at them, and needs them.

    Raises:
        JaxfairError: ``alignment`` got no logits, or its distance needs more classes.
    """
    if config.method == "cvar":
        return cvar(loss, config.level), state
    if config.method == "arl":
        return _reweighted(config, state, loss, label, inputs)
    if config.method == "none":
        return loss.mean(), state
    assert state.multipliers is not None
    compared = boundary_distance(logits, config.distance) if config.method == "alignment" else loss
    gap = group_gaps(compared, group, len(state.multipliers))
    penalty = jnp.sum(state.multipliers.astype(loss.dtype) * gap)
    if config.method in LAGRANGIAN[1:]:
        penalty = jax.lax.stop_gradient(penalty)
    if state.violation is not None:
        seen = jax.lax.stop_gradient(gap).astype(state.violation.dtype)
        state = state._replace(violation=state.violation + seen)
    return loss.mean() + penalty, state


def distillation_share(config: MitigationConfig, num_classes: int) -> float:
    """Return the factor on the distillation of this method: 1, or 1 / C where it is averaged over the classes too."""
    return 1 / num_classes if config.method == "lagrangian-published" else 1.0


def end_epoch(config: MitigationConfig, state: State) -> State:
    """Return the state for the next epoch: ``gamma_a += mu * violation_a``, and the violation set back to 0."""
    if state.multipliers is None or state.violation is None:
        return state
    multipliers = state.multipliers + config.rate * state.violation
    return state._replace(multipliers=multipliers, violation=jnp.zeros_like(state.violation))


def group_gaps(values: Float[Array, " b"], group: Int[Array, " b"], num_groups: int) -> Float[Array, " g"]:
    """Compute ``|L(D_a) - L(D)|`` of each group on a batch; 0, with gradient 0, for a group that is absent from it.

    ``L`` is the mean of ``values``, losses or distances. Where a group's mean equals the batch's, the subgradient is 0.
    """
    # Sums of products and no matrix product, which would round the values to bfloat16 on a TPU; and of differences, so
    # that the gap of a group that is the whole batch is a rounding of 0.
    member = (group == jnp.arange(num_groups)[:, None]).astype(values.dtype)
    count = member.sum(axis=1)
    return jnp.abs(jnp.sum(member * (values - values.mean()), axis=1) / jnp.maximum(count, 1))


def boundary_distance(logits: Float[Array, "b c"] | None, distance: Distance) -> Float[Array, " b"]:
    """Compute what ``alignment`` compares, for each example, in [0, 1]; see ``MitigationConfig.distance``.

    Differentiable; where scores tie, the gradient is one of the one-sided ones and finite.

    Raises:
        JaxfairError: there are no logits, or ``softmax-gap`` has fewer than two classes.
    """
    if logits is None:
        raise JaxfairError("Mitigation 'alignment' compares distances to the decision boundary; pass logits=.")
    if distance == "impurity":
        return 1 - jnp.sum(jax.nn.softmax(logits) ** 2, axis=1)
    return gap(logits)


def cvar(loss: Float[Array, " b"], level: float) -> Float[Array, ""]:
    """Compute the mean of the worst ``level`` share of the losses, the conditional value at risk.

    It equals ``min_eta eta + mean(max(loss - eta, 0)) / level`` (Rockafellar and Uryasev 2000) and is the largest mean
    loss of any part of the batch of that share. Where ``level * b`` is not whole, the last of the worst counts by the
    fraction; below 1 this is the largest loss.
    """
    share = level * len(loss)
    weight = np.clip(share - np.arange(len(loss)), 0, 1) / share
    return jnp.sum(jnp.asarray(weight, loss.dtype) * jnp.sort(loss, descending=True))


def adversary_features(inputs: Float[Array, "b ..."]) -> Float[Array, "b f"]:
    """Return what the adversary sees of the inputs: an image averaged to at most 8 x 8, anything else as it is.

    The adversary of Lahoti et al. 2020 sees the input and the label, and nothing of the learner; so does ours. Their
    inputs are rows of tables; of an image we take the colours of its parts, see ``GRID``.
    """
    if inputs.ndim == 4:
        rows, columns = (jnp.asarray(_averages(side), inputs.dtype) for side in inputs.shape[1:3])
        inputs = jnp.einsum("ih,jw,bhwc->bijc", rows, columns, inputs, precision="highest")
    return inputs.reshape(len(inputs), -1)


def adversary_weights(
    adversary: Adversary, inputs: Float[Array, "b ..."], label: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Compute ``1 + b * s_i / sum_j s_j``, where ``s`` is the sigmoid of the adversary's output, over a batch of b.

    The mean weight is 2.
    """
    features = adversary_features(inputs).astype(adversary.features.dtype)
    of_label = jnp.sum(jax.nn.one_hot(label, len(adversary.label), dtype=adversary.label.dtype) * adversary.label, 1)
    output = jnp.dot(features, adversary.features, precision="highest") + of_label
    # A softmax of log-sigmoids is the same quotient, but never 0 / 0.
    return 1 + len(label) * jax.nn.softmax(jax.nn.log_sigmoid(output))


def _reweighted(
    config: MitigationConfig,
    state: State,
    loss: Float[Array, " b"],
    label: Int[Array, " b"],
    inputs: Float[Array, "b ..."],
) -> tuple[Float[Array, ""], State]:
    """Weigh the losses for the learner, and let the adversary climb on the same batch with the losses fixed.

    As in the authors' code both players move at once, each from what the other was before the step. That code trains
    the learner alone for its first 250 steps; fine-tuning starts with a learner that is trained. The learner's loss is
    halved here, so that equal weights are plain training and a learning rate means the same for all methods.
    """
    assert state.adversary is not None
    losses, inputs = jax.lax.stop_gradient((loss, inputs))

    def negated(adversary: Adversary) -> tuple[Array, Array]:
        weight = adversary_weights(adversary, inputs, label)
        return -jnp.mean(weight * losses), weight

    grads, weight = jax.grad(negated, has_aux=True)(jax.lax.stop_gradient(state.adversary))
    updates, opt_state = optax.adagrad(config.adversary_rate).update(grads, state.adversary_opt, state.adversary)
    adversary = optax.apply_updates(state.adversary, updates)
    value = jnp.mean(weight.astype(loss.dtype) * loss) / 2  # the mean weight
    return value, state._replace(adversary=adversary, adversary_opt=opt_state)


def _averages(side: int) -> np.ndarray:
    """Return the matrix (at most GRID, side) that averages pixels over parts of as equal length as can be."""
    count = min(GRID, side)
    member = np.arange(side) * count // side == np.arange(count)[:, None]
    return member / member.sum(axis=1, keepdims=True)
