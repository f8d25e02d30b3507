"""Make ``curvature.npz``: PyTorch's curvature of one trained ResNet, for ``tests/test_curvature_reference.py``.

From the root of the repository, with the ``bench`` extra, which brings PyTorch:

    python -m pip install -e '.[bench]'
    python tests/references/make_curvature_reference.py --out tests/references/curvature.npz

The stored file is of PyTorch 2.13 on a CPU. jaxfair trains the network, a gated ResNet half of whose units are linear,
for a few epochs on scikit-learn's digits, and has no part in anything after that: the inputs go through a file's arrays
to the network of ``make_snl_reference.py``, in plain PyTorch functions, and eigenvalues come from SciPy's ARPACK over
PyTorch's double backward passes. With ``--inputs FILE`` the inputs are those of a file made before, and nothing is
trained; ``--dense`` computes every column of the Hessians as well and compares the eigenvalues with LAPACK's (minutes).

Weights, statistics and images are float32 and widened, so both sides start from the same numbers; PyTorch computes in
float64, and its results are stored in it. The Hessian jumps where the input of a gate changes sign, so images that
bring one within ``KINK_MARGIN`` of zero are left out: float32 is off by some 1e-6 there.

Stored, in jaxfair's layout (images NHWC, kernels HWIO, head IO, gates HWC), G groups of unequal size in mixed order:

- ``images``, ``label``, ``group``, ``params/...``, ``batch_stats/...``, ``masks/...`` (0/1): the inputs, with batch
  norm in evaluation mode;
- ``vector/...``: float32, of the shapes of the parameters;
- ``accuracy``, ``loss`` (cross-entropy), ``softmax_gap`` (largest minus second largest score), shape (G,): group means;
- ``gradient_norm``: of the mean loss of each group;
- ``top_eigenvalue``, ``bottom_eigenvalue``: of its Hessian, with ``..._residual``, ``||H u - value u||`` for the unit
  vector u that was found, at most 1e-10 of the largest magnitude;
- ``hessian_product/...``, ``gauss_newton_product/...``: products with ``vector``, shapes (G, *shape of the parameter).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from make_snl_reference import GatedResNet, to_torch
from scipy.sparse.linalg import LinearOperator, eigsh

SEED = 0
STAGES, WIDTH, CLASSES = (1, 1), 6, 10
RELU_SHARE = 0.5
TRAIN_COUNT, EPOCHS, BATCH, LEARNING_RATE = 1000, 10, 64, 0.05
GROUP_OF_DIGIT = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
GROUP_SIZES = np.array([41, 30, 23])  # of no common divisor, so that no chunk size divides all
KINK_MARGIN = 5e-5
EIGEN_TOLERANCE = 1e-10

Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]


def train_inputs() -> Arrays:
    """Train a network by jaxfair; return it with candidate images, in jaxfair's names and layout."""
    import jax
    from flax.traverse_util import flatten_dict

    from jaxfair import networks
    from jaxfair.data import sources
    from jaxfair.networks import masks
    from jaxfair.training.config import TrainConfig
    from jaxfair.training.fit import fit

    digits = sources.digits()
    order = np.random.default_rng(SEED).permutation(len(digits))
    training, others = digits.take(order[:TRAIN_COUNT]), digits.take(order[TRAIN_COUNT:])
    network = networks.init(networks.ResNet(STAGES, CLASSES, WIDTH), digits.image_shape, SEED)
    relus = round(RELU_SHARE * masks.unit_count(network.masks))
    network = network.replace(masks=masks.keep_random(network.masks, relus, jax.random.key(SEED)))
    config = TrainConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=LEARNING_RATE, schedule="cosine")
    (fitted,) = fit([network], training, config, seeds=[SEED])
    inputs = {"images": np.array(others.normalize(others.images)), "label": np.array(others.label)}
    for name in ("params", "batch_stats", "masks"):
        inputs |= {f"{name}/{k}": np.array(v) for k, v in flatten_dict(getattr(fitted.network, name), sep="/").items()}
    return inputs


def choose_images(candidates: Arrays) -> Arrays:
    """Keep the first images of each group that stay away from kinks; draw the vector."""
    network, gates = build(candidates)
    images = to_torch("images", candidates["images"])
    room, chosen = GROUP_SIZES.copy(), []
    for i, label in enumerate(candidates["label"]):
        if room[GROUP_OF_DIGIT[label]]:
            network(images[i : i + 1], gates, train=False)
            if network.kink_distance > KINK_MARGIN:
                chosen.append(i)
                room[GROUP_OF_DIGIT[label]] -= 1
    assert not room.any(), "there are too few images; choose a smaller KINK_MARGIN"
    inputs = candidates | {name: candidates[name][chosen] for name in ("images", "label")}
    inputs["group"] = GROUP_OF_DIGIT[inputs["label"]].astype(np.int32)
    rng = np.random.default_rng(SEED)
    for name in [name for name in inputs if name.startswith("params/")]:
        inputs[name.replace("params", "vector", 1)] = rng.normal(size=inputs[name].shape).astype(np.float32)
    return inputs


def build(inputs: Arrays) -> tuple[GatedResNet, Tensors]:
    """Return the network and its gates in PyTorch's layout, in float64."""
    prefixes = ("params/", "batch_stats/")
    variables = {name: to_torch(name, value) for name, value in inputs.items() if name.startswith(prefixes)}
    gates = {n.removeprefix("masks/"): to_torch(n, value) for n, value in inputs.items() if n.startswith("masks/")}
    return GatedResNet(STAGES, variables), gates


class GroupLoss:
    """The mean cross-entropy of one group as a function of the flat parameters, and its derivatives.

    Attributes:
        logits: of the group's images.
        loss: their mean cross-entropy.
        gradient: of ``loss``, a flat vector, differentiable.
    """

    def __init__(self, inputs: Arrays, group: int):
        """Run the network forward and backward once; every product differentiates that pass again."""
        member = inputs["group"] == group
        network, gates = build(inputs)
        self._names = [name for name in network.variables if name.startswith("params/")]
        self._shapes = [network.variables[name].shape for name in self._names]
        self.theta = torch.cat([network.variables[name].flatten() for name in self._names]).requires_grad_()
        network.variables |= self.unravel(self.theta)
        self.logits = network(to_torch("images", inputs["images"][member]), gates, train=False)
        self.label = torch.from_numpy(inputs["label"][member]).long()
        self.loss = F.cross_entropy(self.logits, self.label)
        (self.gradient,) = torch.autograd.grad(self.loss, self.theta, create_graph=True)

    def unravel(self, flat: torch.Tensor) -> Tensors:
        """Cut a flat vector into tensors by the parameters' names."""
        parts = flat.split([shape.numel() for shape in self._shapes])
        return {n: part.reshape(shape) for n, part, shape in zip(self._names, parts, self._shapes, strict=True)}

    def hessian_product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return ``H vector``, the gradient of ``gradient . vector``."""
        return torch.autograd.grad(self.gradient @ vector, self.theta, retain_graph=True)[0]

    def gauss_newton_product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return ``J^T (diag(p) - p p^T) J vector / n``; ``J v`` is the derivative of ``v . J^T u`` by u."""
        u = torch.zeros_like(self.logits, requires_grad=True)
        (back,) = torch.autograd.grad(self.logits, self.theta, u, create_graph=True)
        (moved,) = torch.autograd.grad(back @ vector, u)
        p = self.logits.detach().softmax(dim=1)
        inner = p * moved - p * (p * moved).sum(dim=1, keepdim=True)
        return torch.autograd.grad(self.logits, self.theta, inner / len(p), retain_graph=True)[0]

    def extreme_eigenvalue(self, which: str) -> tuple[float, float]:
        """Return the largest (``LA``) or smallest (``SA``) eigenvalue of the Hessian, and its residual."""
        size = self.theta.numel()

        def matvec(vector: np.ndarray) -> np.ndarray:
            return self.hessian_product(torch.from_numpy(vector.ravel())).numpy()

        operator = LinearOperator(shape=(size, size), matvec=matvec, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        start = np.random.default_rng(SEED).normal(size=size)
        values, vectors = eigsh(operator, k=4, which=which, tol=0, ncv=120, maxiter=100, v0=start)
        best = int(np.argmax(values) if which == "LA" else np.argmin(values))
        vector = vectors[:, best] / np.linalg.norm(vectors[:, best])
        return float(values[best]), float(np.linalg.norm(operator @ vector - values[best] * vector))

    def dense_eigenvalues(self) -> np.ndarray:
        """Return all eigenvalues, by LAPACK, of the Hessian's columns."""
        columns = [self.hessian_product(row) for row in torch.eye(self.theta.numel(), dtype=torch.float64)]
        hessian = torch.stack(columns).numpy()
        assert np.abs(hessian - hessian.T).max() < 1e-12 * np.abs(hessian).max()
        return np.linalg.eigvalsh(hessian)


def answers_of_group(inputs: Arrays, group: int, *, dense: bool) -> dict[str, Any]:
    """Return every answer about one group."""
    found = GroupLoss(inputs, group)
    scores = found.logits.detach().softmax(dim=1).sort(dim=1, descending=True).values
    top, top_residual = found.extreme_eigenvalue("LA")
    bottom, bottom_residual = found.extreme_eigenvalue("SA")
    scale = max(abs(top), abs(bottom))
    assert max(top_residual, bottom_residual) <= EIGEN_TOLERANCE * scale, (top_residual, bottom_residual)
    if dense:
        values = found.dense_eigenvalues()
        errors = (values[-1] - top) / scale, (values[0] - bottom) / scale
        print(f"group {group}: LAPACK minus ARPACK, relative: {errors[0]:.1e}, {errors[1]:.1e}")
        assert np.abs(errors).max() <= EIGEN_TOLERANCE
    answers = {
        "accuracy": (found.logits.argmax(dim=1) == found.label).double().mean().item(),
        "loss": found.loss.item(),
        "softmax_gap": (scores[:, 0] - scores[:, 1]).mean().item(),
        "gradient_norm": found.gradient.detach().norm().item(),
        "top_eigenvalue": top,
        "top_eigenvalue_residual": top_residual,
        "bottom_eigenvalue": bottom,
        "bottom_eigenvalue_residual": bottom_residual,
    }
    vectors = {name: value for name, value in inputs.items() if name.startswith("vector/")}
    names = [name.replace("params", "vector", 1) for name in found.unravel(found.theta)]
    vector = torch.cat([to_torch(name, vectors[name]).flatten() for name in names])
    for kind in ("hessian_product", "gauss_newton_product"):
        for name, value in found.unravel(getattr(found, kind)(vector)).items():
            answers[name.replace("params", kind, 1)] = to_jaxfair(name, value)
    return answers


def to_jaxfair(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Put the axes of a parameter in jaxfair's order; ``to_torch`` backwards, in float64."""
    if name.endswith("kernel"):
        tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    return tensor.detach().contiguous().numpy()


def make_reference(inputs: Arrays, *, dense: bool) -> Arrays:
    """Return the inputs and what PyTorch makes of them."""
    groups = [answers_of_group(inputs, group, dense=dense) for group in range(len(GROUP_SIZES))]
    for name in ("accuracy", "loss", "softmax_gap", "gradient_norm", "top_eigenvalue", "bottom_eigenvalue"):
        print(f"{name:>18}", *(f"{answers[name]:12.6g}" for answers in groups))
    return inputs | {name: np.stack([answers[name] for answers in groups]) for name in groups[0]}


def main() -> None:
    """Write the reference."""
    parser = argparse.ArgumentParser(description="Make the stored PyTorch reference of the curvature of groups.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("curvature.npz"), help="file to write")
    parser.add_argument("--inputs", type=Path, help="take network and images from this file instead of training")
    parser.add_argument("--dense", action="store_true", help="compare with all eigenvalues of the dense Hessians")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.inputs:
        kept = ("images", "label", "group", "params/", "batch_stats/", "masks/", "vector/")
        with np.load(arguments.inputs) as stored:
            inputs = {name: value for name, value in stored.items() if name.startswith(kept)}
    else:
        inputs = choose_images(train_inputs())
    reference: dict[str, Any] = make_reference(inputs, dense=arguments.dense)
    np.savez_compressed(arguments.out, **reference)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
