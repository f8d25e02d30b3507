"""Curvature of a trained, masked ResNet against PyTorch (``references/make_curvature_reference.py``)."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax.flatten_util import ravel_pytree

import jaxfair
from jaxfair import margins, networks
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, Kind, as_pytree, make_plan
from jaxfair.curvature.spectrum import CurvatureConfig, GroupCurvature, group_curvature

GROUPS, GROUP_SIZES = 3, (41, 30, 23)
OF_GROUPS = ("loss", "gradient_norm", "top_eigenvalue", "bottom_eigenvalue")

# Rounding, in units of half the type's epsilon, the largest relative error of one operation. A Hessian product is four
# passes through the network (forward, back, and the tangent of both), each through 5 convolutions, 6 norms and the head
# one after another. The longest sums have 3 * 3 * 12 = 108 terms; their errors add up like a random walk, to sqrt(108)
# of one. Were all 48 of one sign: 48 * sqrt(108) = 499, 3e-5 in float32 and 6e-14 in float64. Measured: at most 28 in
# float32 and 30 in float64, for products; PyTorch's own error, in float64, is of that size too.
ROUNDINGS = 48 * 108**0.5
# Lanczos stops at residuals of this size relative to the largest eigenvalue L. The error of a value is then at most
# (1e-8 L)^2 / gap in float64 and (1e-5 L)^2 / gap in float32: below the rounding as long as the gap to the next
# eigenvalue exceeds 2e-3 L in float64 and 4e-6 L in float32; the closest pair here, at the lower end, is 3e-3 L apart.
LANCZOS: dict[str, Any] = {"bottom": True, "max_steps": 500}
LANCZOS_TOLERANCE = {"float32": 1e-5, "float64": 1e-8}

Reference = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The stored inputs and PyTorch's results."""
    with np.load(Path(__file__).parents[1] / "references" / "curvature.npz") as stored:
        return dict(stored)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The type to compute in."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def rounding(dtype: str) -> float:
    """Return the largest relative error allowed."""
    return ROUNDINGS * float(np.finfo(dtype).eps) / 2


def tree(reference: Reference, prefix: str, dtype: Any) -> Any:
    """Return the stored arrays under ``prefix`` as a tree."""
    arrays = {n.removeprefix(prefix): jnp.asarray(a, dtype) for n, a in reference.items() if n.startswith(prefix)}
    return unflatten_dict(arrays, sep="/")


def problem(reference: Reference, dtype: str) -> dict[str, Any]:
    """Return network, images and labels as the arguments of our functions."""
    module = networks.ResNet(stage_sizes=(1, 1), num_classes=10, width=6)
    variables = (tree(reference, f"{name}/", dtype) for name in ("params", "batch_stats", "masks"))
    network = networks.Network(module, *variables)
    images = jnp.asarray(reference["images"], dtype)
    return {"logits_fn": networks.frozen(network), "params": network.params, "x": images, "y": reference["label"]}


def group_weights(reference: Reference, dtype: str) -> np.ndarray:
    """Return 1 / n for each member of each group."""
    member = reference["group"] == np.arange(GROUPS)[:, None]
    return (member / member.sum(axis=1, keepdims=True)).astype(dtype)


def stored_product(reference: Reference, kind: Kind, group: int) -> np.ndarray:
    """Return PyTorch's product as a flat vector in our order of the parameters."""
    products = {name: value[group] for name, value in reference.items() if name.startswith(f"{kind}_product/")}
    with jax.enable_x64(True):
        return np.asarray(ravel_pytree(tree(products, f"{kind}_product/", np.float64))[0])


def assert_numbers_agree(found: Any, reference: Reference, tolerance: float) -> None:
    """Compare what both ``GroupCurvature`` and ``GroupReport`` have.

    Loss, norm and largest eigenvalue relative to themselves; the smallest relative to the largest, by whose size an
    error of the matrix moves every eigenvalue (Weyl).
    """
    assert found.converged.all()
    for name in ("loss", "gradient_norm", "top_eigenvalue"):
        np.testing.assert_allclose(getattr(found, name), reference[name], rtol=tolerance, err_msg=name)
    error = np.abs(found.bottom_eigenvalue - reference["bottom_eigenvalue"])
    assert (error <= tolerance * reference["top_eigenvalue"]).all(), error


def test_the_reference_is_of_a_trained_and_masked_network(reference: Reference) -> None:
    """At random weights, or with the masks of an untouched network, much less would be tested."""
    assert np.bincount(reference["group"]).tolist() == list(GROUP_SIZES)
    assert (np.diff(reference["group"]) != 0).sum() > GROUPS, "the groups are mixed"
    assert (reference["accuracy"] > 0.9).all()
    masks = np.concatenate([value.ravel() for name, value in reference.items() if name.startswith("masks/")])
    assert set(masks.tolist()) == {0.0, 1.0}
    assert 0.4 < masks.mean() < 0.6
    means = [value for name, value in reference.items() if name.endswith("norm1/mean")]
    assert all(np.abs(mean).max() > 0.1 for mean in means), "batch norm has seen data"
    # Sharp and indefinite, and PyTorch's own eigenvalues are exact to what is asked of ours.
    assert (reference["top_eigenvalue"] > 10).all()
    assert (reference["bottom_eigenvalue"] < -1).all()
    for end in ("top", "bottom"):
        assert (reference[f"{end}_eigenvalue_residual"] <= 1e-14 * reference["top_eigenvalue"]).all()


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"chunk_size": 16, "memory": 0}, {"chunk_size": None}], ids=str)
def test_group_curvature(reference: Reference, dtype: str, options: dict[str, Any]) -> None:
    """Every number, in chunks that do not divide the groups, kept and recomputed; of the smallest group in float64.

    Convolutions of float64 are slow on a CPU; their products are tested for every group, as is the report.
    """
    options = LANCZOS | {"tolerance": LANCZOS_TOLERANCE[dtype]} | options
    first = 0 if dtype == "float32" else int(np.argmin(GROUP_SIZES))
    reference = reference | {name: reference[name][first:] for name in OF_GROUPS}
    arguments: dict[str, Any] = problem(reference, dtype) | {"weights": group_weights(reference, dtype)[first:]}
    found = group_curvature(**arguments, config=CurvatureConfig(**options))
    assert_numbers_agree(found, reference, rounding(dtype))
    for end in ("top", "bottom"):
        bound = getattr(found, f"{end}_eigenvalue_residual") + rounding(dtype) * reference["top_eigenvalue"]
        assert (np.abs(getattr(found, f"{end}_eigenvalue") - reference[f"{end}_eigenvalue"]) <= bound).all()


def test_the_start_vector_does_not_matter(reference: Reference) -> None:
    """Another seed, the gradient as start, and a small basis with restarts, in float32."""
    arguments: dict[str, Any] = problem(reference, "float32") | {"weights": group_weights(reference, "float32")}
    steps = set()
    changes: list[dict[str, Any]] = [{"seed": 5}, {"start": "gradient"}, {"max_basis": 12}]
    config = CurvatureConfig(tolerance=1e-5, **LANCZOS)
    for change in changes:
        found: GroupCurvature = group_curvature(**arguments, config=dataclasses.replace(config, **change))
        assert_numbers_agree(found, reference, rounding("float32"))
        steps.add(tuple(found.steps.tolist()))
    assert len(steps) == 3, "an option changed nothing"


@pytest.mark.parametrize("chunk_size", [1, 16, None])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_products(reference: Reference, dtype: str, kind: Kind, chunk_size: int | None) -> None:
    """Hessian and Gauss-Newton products of every group with the stored vector, with and without kept passes."""
    arguments = problem(reference, dtype)
    vector = ravel_pytree(tree(reference, "vector/", dtype))[0]
    logits_fn = as_pytree(arguments.pop("logits_fn"))
    for memory in (GIGABYTE, 0) if chunk_size == 16 else (GIGABYTE,):
        options: dict[str, Any] = {"kind": kind, "memory": memory}
        plan = make_plan(logits_fn, **arguments, count=max(GROUP_SIZES), chunk_size=chunk_size, **options)
        for group, weight in enumerate(group_weights(reference, dtype)):
            operator = GroupOperator(logits_fn, **arguments, weight=weight, plan=plan, **options)
            found, expected = operator(vector), stored_product(reference, kind, group)
            assert found.dtype == dtype
            error = np.linalg.norm(np.asarray(found, np.float64) - expected)
            assert error <= rounding(dtype) * np.linalg.norm(expected)
            if kind == "hessian":
                loss, gradient = operator.loss_and_gradient()
                np.testing.assert_allclose(loss, reference["loss"][group], rtol=rounding(dtype))
                norm = np.linalg.norm(np.asarray(gradient, np.float64))
                np.testing.assert_allclose(norm, reference["gradient_norm"][group], rtol=rounding(dtype))


def test_the_two_kinds_of_products_differ(reference: Reference) -> None:
    """By far more than any tolerance here, and so do the groups'."""
    products = [stored_product(reference, kind, g) for kind in ("hessian", "gauss_newton") for g in range(GROUPS)]
    for i, one in enumerate(products):
        for other in products[:i]:
            assert np.linalg.norm(one - other) > 0.1 * np.linalg.norm(one)


@pytest.mark.parametrize("chunk_size", [16, None])
def test_group_report(reference: Reference, dtype: str, chunk_size: int | None) -> None:
    """One call gives all of it."""
    options = LANCZOS | {"tolerance": LANCZOS_TOLERANCE[dtype], "chunk_size": chunk_size}
    config = CurvatureConfig(**options)
    report = jaxfair.group_report(**problem(reference, dtype), group=reference["group"], config=config)
    assert report.count.tolist() == list(GROUP_SIZES)
    np.testing.assert_allclose(report.accuracy, reference["accuracy"], rtol=1e-12)
    for name in ("loss", "softmax_gap"):
        np.testing.assert_allclose(getattr(report, name), reference[name], rtol=rounding(dtype), err_msg=name)
    assert_numbers_agree(report.curvature, reference, rounding(dtype))
    assert report.asymmetry <= rounding(dtype)


def test_softmax_gap(reference: Reference, dtype: str) -> None:
    """The largest minus the second largest score, meaned over each group."""
    arguments = problem(reference, dtype)
    gap = margins.softmax_gap(arguments["logits_fn"](arguments["params"], arguments["x"]))
    means = group_weights(reference, "float64") @ np.asarray(gap, np.float64)
    np.testing.assert_allclose(means, reference["softmax_gap"], rtol=rounding(dtype))
