"""Make ``snl.npz``: what PyTorch computes for the gated ResNet of Cho et al. 2022, for ``tests/test_parity.py``.

From the root of the repository, with the ``bench`` extra, which brings PyTorch:

    python -m pip install -e '.[bench]'
    python tests/references/make_snl_reference.py --out tests/references/snl.npz

The stored file is of PyTorch 2.13 on a CPU. The network is written in plain PyTorch functions over variables that bear
jaxfair's names; no code of jaxfair has a part in the reference.

All inputs are drawn in float32 and widened, so both sides start from the same numbers. PyTorch then computes in float64
and only the results are rounded to float32: the stored numbers are right to half a unit in the last place whatever
convolution algorithm a PyTorch build picks, and a difference seen in the test is the rounding of the code under test
alone. A float32 reference would add its own rounding, which in the gradients is as large as what the test has to bound.

Stored, in jaxfair's layout (images NHWC, kernels HWIO, head IO, gates HWC):

- ``images``, ``labels``, ``teacher_logits``, ``params/...``, ``batch_stats/...``, ``masks/...`` (fractional gates),
  ``binary_masks/...`` (0/1, a fixed share of ones);
- ``logits/masks`` and ``logits/binary_masks``: in evaluation mode;
- ``temperature``, ``kappa``, ``objective`` and ``gradient/{params,masks}/...``: of the SNL objective in training mode;
- ``running/<norm>/{mean,var_unbiased,var_biased,count}``: running statistics after that one forward pass. PyTorch
  normalizes by the biased variance of the batch but moves ``running_var`` towards the unbiased one, ``var_unbiased``;
  ``var_biased`` is the same step towards the biased one, and ``count`` the number of values behind each variance;
- ``sgd/...``: steps of ``torch.optim.SGD`` on a vector, for given gradients, with classical and Nesterov momentum.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

SEED = 1
STAGES = (1, 1, 1, 1)
WIDTH, SIZE, CLASSES, BATCH = 4, 16, 5, 6
BINARY_SHARE = 0.4
TEMPERATURE, KAPPA = 4.0, 1e-3
BN_MOMENTUM, BN_EPSILON = 0.1, 1e-5
LEARNING_RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
# The objective's gradient jumps where the input of a gate changes sign. Float32 is off by about 1e-6 there.
KINK_MARGIN = 1e-5

Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]


class GatedResNet:
    """The network of Cho et al. 2022, as a function of named tensors in PyTorch's layout.

    Attributes:
        variables: by their names in jaxfair, ``params/...`` and ``batch_stats/...``; gates are given to each call.
        running: of each norm, what the last call in training mode made of its running statistics.
        kink_distance: the smallest magnitude that the last call put into a gate.
    """

    def __init__(self, stages: tuple[int, ...], variables: Tensors):
        self.stages = stages
        self.variables = variables
        self.running: dict[str, Tensors] = {}
        self.kink_distance = math.inf

    def __call__(self, x: torch.Tensor, gates: Tensors, *, train: bool) -> torch.Tensor:
        """Compute logits; ``train`` says whether a norm uses the statistics of the batch or the running ones."""
        self.kink_distance = math.inf
        x = self._norm(self._conv(x, "stem_conv"), "stem_norm", train)
        for stage, size in enumerate(self.stages, start=1):
            for block in range(1, size + 1):
                name = f"stage{stage}_block{block}"
                x = self._block(x, gates, name, stride=2 if stage > 1 and block == 1 else 1, train=train)
        x = x.mean(dim=(2, 3))
        return F.linear(x, self.variables["params/head/kernel"], self.variables["params/head/bias"])

    def _block(self, x: torch.Tensor, gates: Tensors, name: str, *, stride: int, train: bool) -> torch.Tensor:
        y = self._norm(self._conv(x, f"{name}/conv1", stride), f"{name}/norm1", train)
        y = self._gate(y, gates[f"{name}/gate1/alpha"])
        y = self._norm(self._conv(y, f"{name}/conv2"), f"{name}/norm2", train)
        if f"params/{name}/shortcut_conv/kernel" in self.variables:
            x = self._norm(self._conv(x, f"{name}/shortcut_conv", stride), f"{name}/shortcut_norm", train)
        return self._gate(x + y, gates[f"{name}/gate2/alpha"])

    def _conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = self.variables[f"params/{name}/kernel"]
        return F.conv2d(x, kernel, stride=stride, padding=1 if kernel.shape[-1] == 3 else 0)

    def _gate(self, x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        self.kink_distance = min(self.kink_distance, x.detach().abs().min().item())
        return alpha * F.relu(x) + (1 - alpha) * x

    def _norm(self, x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
        scale, bias = (self.variables[f"params/{name}/{leaf}"] for leaf in ("scale", "bias"))
        old_mean, old_var = (self.variables[f"batch_stats/{name}/{leaf}"] for leaf in ("mean", "var"))
        mean, var = old_mean.clone(), old_var.clone()  # F.batch_norm writes to them
        y = F.batch_norm(x, mean, var, scale, bias, training=train, momentum=BN_MOMENTUM, eps=BN_EPSILON)
        if train:
            batch_var = x.detach().var(dim=(0, 2, 3), correction=0)
            self.running[name] = {
                "mean": mean,
                "var_unbiased": var,
                "var_biased": (1 - BN_MOMENTUM) * old_var + BN_MOMENTUM * batch_var,
                "count": torch.tensor(x.numel() // x.shape[1]),
            }
        return y


def snl_objective(
    logits: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor, gates: Tensors
) -> torch.Tensor:
    """Compute cross-entropy + distillation + ``KAPPA`` times the 1-norm of all gates, means over the batch."""
    student = F.log_softmax(logits / TEMPERATURE, dim=1)
    teacher = F.softmax(teacher_logits / TEMPERATURE, dim=1)
    distillation = F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2
    penalty = sum(torch.linalg.vector_norm(alpha, ord=1) for alpha in gates.values())
    return F.cross_entropy(logits, labels) + distillation + KAPPA * penalty


def draw_inputs(rng: np.random.Generator) -> Arrays:
    """Draw everything that the reference starts from, in jaxfair's names and layout."""
    inputs: Arrays = {}

    def conv(name: str, window: int, fan_in: int, fan_out: int) -> None:
        kernel = rng.normal(size=(window, window, fan_in, fan_out)) * math.sqrt(2 / (window * window * fan_in))
        inputs[f"params/{name}/kernel"] = kernel

    def norm(name: str, features: int) -> None:
        inputs[f"params/{name}/scale"] = rng.uniform(0.5, 1.5, features)
        inputs[f"params/{name}/bias"] = 0.3 * rng.normal(size=features)
        inputs[f"batch_stats/{name}/mean"] = 0.3 * rng.normal(size=features)
        inputs[f"batch_stats/{name}/var"] = rng.uniform(0.5, 2.0, features)

    def gate(name: str, shape: tuple[int, int, int]) -> None:
        # A little beyond [0, 1] on both sides: Adam goes there, and only below 0 does the 1-norm differ from the sum.
        inputs[f"masks/{name}/alpha"] = rng.uniform(-0.05, 1.05, shape)
        units = math.prod(shape)
        inputs[f"binary_masks/{name}/alpha"] = (rng.permutation(units) < round(BINARY_SHARE * units)).reshape(shape)

    conv("stem_conv", 3, 3, WIDTH)
    norm("stem_norm", WIDTH)
    features = WIDTH
    for stage, blocks in enumerate(STAGES):
        size = SIZE // 2**stage
        for block in range(blocks):
            name, fan_in, features = f"stage{stage + 1}_block{block + 1}", features, WIDTH * 2**stage
            conv(f"{name}/conv1", 3, fan_in, features)
            norm(f"{name}/norm1", features)
            gate(f"{name}/gate1", (size, size, features))
            conv(f"{name}/conv2", 3, features, features)
            norm(f"{name}/norm2", features)
            if fan_in != features:
                conv(f"{name}/shortcut_conv", 1, fan_in, features)
                norm(f"{name}/shortcut_norm", features)
            gate(f"{name}/gate2", (size, size, features))
    inputs["params/head/kernel"] = rng.normal(size=(features, CLASSES)) * math.sqrt(2 / features)
    inputs["params/head/bias"] = 0.3 * rng.normal(size=CLASSES)
    inputs["images"] = rng.normal(size=(BATCH, SIZE, SIZE, 3))
    inputs["labels"] = rng.integers(CLASSES, size=BATCH).astype(np.int32)
    inputs["teacher_logits"] = 2 * rng.normal(size=(BATCH, CLASSES))
    inputs["sgd/start"] = rng.normal(size=7)
    inputs["sgd/gradients"] = rng.normal(size=(3, 7))
    return {name: value if name == "labels" else value.astype(np.float32) for name, value in inputs.items()}


def to_torch(name: str, value: np.ndarray) -> torch.Tensor:
    """Widen to float64 and put the axes in PyTorch's order."""
    tensor = torch.from_numpy(value).double()
    if name == "images":
        return tensor.permute(0, 3, 1, 2)
    if name.endswith("alpha"):
        return tensor.permute(2, 0, 1)
    if name.endswith("kernel"):
        return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
    return tensor


def from_torch(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Put the axes in jaxfair's order and round to float32, which counts are not."""
    if name.endswith("alpha"):
        tensor = tensor.permute(1, 2, 0)
    elif name.endswith("kernel"):
        tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    value = tensor.detach().contiguous().numpy()
    return value.astype(np.int32 if name.endswith("count") else np.float32)


def sgd_steps(start: torch.Tensor, gradients: torch.Tensor, *, nesterov: bool) -> torch.Tensor:
    """Return the vector after each step of ``torch.optim.SGD``, one step for each row of ``gradients``."""
    vector = start.clone().requires_grad_()
    optimizer = torch.optim.SGD(
        [vector], lr=LEARNING_RATE, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=nesterov
    )
    steps = []
    for gradient in gradients:
        vector.grad = gradient.clone()
        optimizer.step()
        steps.append(vector.detach().clone())
    return torch.stack(steps)


def make_reference() -> dict[str, Any]:
    """Return the inputs and what PyTorch makes of them."""
    inputs = draw_inputs(np.random.default_rng(SEED))
    tensors = {name: to_torch(name, value) for name, value in inputs.items()}
    labels = torch.from_numpy(inputs["labels"]).long()

    def collection(prefix: str) -> Tensors:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    network = GatedResNet(STAGES, {n: v for n, v in tensors.items() if n.startswith(("params/", "batch_stats/"))})
    results: Tensors = {}
    for masks in ("masks", "binary_masks"):
        results[f"logits/{masks}"] = network(tensors["images"], collection(f"{masks}/"), train=False)

    leaves = {name: value for name, value in tensors.items() if name.startswith(("params/", "masks/"))}
    for leaf in leaves.values():
        leaf.requires_grad_()
    gates = collection("masks/")
    logits = network(tensors["images"], gates, train=True)
    objective = snl_objective(logits, labels, tensors["teacher_logits"], gates)
    objective.backward()
    results["objective"] = objective
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        results[f"gradient/{name}"] = leaf.grad
    for norm, statistics in network.running.items():
        results |= {f"running/{norm}/{name}": value for name, value in statistics.items()}
    if network.kink_distance < KINK_MARGIN:
        raise SystemExit(f"A gate's input is only {network.kink_distance:.1e} from the kink; choose another SEED.")

    for name, nesterov in (("classical", False), ("nesterov", True)):
        results[f"sgd/{name}"] = sgd_steps(tensors["sgd/start"], tensors["sgd/gradients"], nesterov=nesterov)
    settings = {
        "temperature": TEMPERATURE,
        "kappa": KAPPA,
        "sgd/learning_rate": LEARNING_RATE,
        "sgd/momentum": SGD_MOMENTUM,
        "sgd/weight_decay": WEIGHT_DECAY,
    }
    stored = {name: from_torch(name, value) for name, value in results.items()}
    return inputs | stored | {name: np.float64(value) for name, value in settings.items()}


def main() -> None:
    """Write the reference."""
    parser = argparse.ArgumentParser(description="Make the stored PyTorch reference of the SNL network.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("snl.npz"), help="file to write")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    np.savez_compressed(out, **make_reference())
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
