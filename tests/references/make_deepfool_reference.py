"""Make ``deepfool.npz``: what Foolbox computes with DeepFool (L2), for ``tests/test_margins.py``.

From the root of the repository, with the ``bench`` extra, which brings PyTorch, and Foolbox:

    python -m pip install -e '.[bench]' 'foolbox>=3.3'
    python tests/references/make_deepfool_reference.py --out tests/references/deepfool.npz

The stored file is of Foolbox 3.3.4 and PyTorch 2.13 on a CPU. The network, two convolutions and two dense layers with
ReLUs, is written in plain PyTorch functions; no code of jaxfair has a part in the reference. It is trained for some
steps to tell which class's noisy prototype an image is, so that its boundaries are those of a trained network.

Images and parameters are rounded to float32 and widened, so both sides start from the same numbers, and the attack runs
in float64: a difference seen in the test is not rounding of the reference.

Stored, in jaxfair's layout (images NHWC, kernels HWIO, dense IO; the dense layer reads features in HWC order):

- ``images``, ``params/...``, ``label``: the network's prediction, from which DeepFool starts;
- ``logits``;
- ``stock``: distances of ``L2DeepFoolAttack`` as it is;
- ``exact``: distances of the same attack without the 1e-4 that Foolbox adds to the length of each step and that the
  published algorithm does not have.
"""

import argparse
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import torch
import torch.nn.functional as F

SEED = 3
SIZE, CHANNELS, CLASSES, COUNT = 8, 2, 6, 48
NOISE, STEPS, RATE, BATCH = 1.0, 300, 3e-3, 128
MAX_STEPS, OVERSHOOT = 50, 0.02
# The attack clips to these; DeepFool as published does not.
BOUNDS = (-1e3, 1e3)

Tensors = dict[str, torch.Tensor]


class ExactDeepFool(foolbox.attacks.L2DeepFoolAttack):
    """DeepFool whose steps have the published length."""

    def get_perturbations(self, distances: Any, grads: Any) -> Any:
        """Take back the 1e-4 that the caller has added."""
        return super().get_perturbations(distances - 1e-4, grads)


class Network(torch.nn.Module):
    """Logits of images NCHW from parameters in jaxfair's layout."""

    def __init__(self, params: Tensors):
        """Hold ``params``."""
        super().__init__()
        self.params = params

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of shape (n, CLASSES)."""
        p = self.params
        x = F.relu(F.conv2d(x, p["conv1"].permute(3, 2, 0, 1), p["bias1"], padding=1))
        x = F.relu(F.conv2d(x, p["conv2"].permute(3, 2, 0, 1), p["bias2"], stride=2, padding=1))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return F.relu(x @ p["dense3"] + p["bias3"]) @ p["dense4"] + p["bias4"]


def initial(generator: torch.Generator) -> Tensors:
    """Draw He-normal kernels; biases are zero."""
    features = (SIZE // 2) ** 2 * 6
    shapes = {"conv1": (3, 3, CHANNELS, 4), "conv2": (3, 3, 4, 6), "dense3": (features, 16), "dense4": (16, CLASSES)}
    params = {}
    for layer, (name, shape) in enumerate(shapes.items(), 1):
        fan_in = np.prod(shape[:-1])
        params[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * (2 / fan_in) ** 0.5
        params[f"bias{layer}"] = torch.zeros(shape[-1], dtype=torch.float64)
    return params


def train(params: Tensors, prototypes: torch.Tensor, generator: torch.Generator) -> Tensors:
    """Fit the parameters by Adam and round them to float32."""
    for value in params.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam(params.values(), lr=RATE)
    for _ in range(STEPS):
        images, label = draw(prototypes, BATCH, generator)
        optimizer.zero_grad()
        F.cross_entropy(Network(params)(images), label).backward()
        optimizer.step()
    return {name: value.detach().float().double() for name, value in params.items()}


def draw(prototypes: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy images of the classes' prototypes, rounded to float32, and their classes."""
    label = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn((count, *prototypes.shape[1:]), generator=generator, dtype=torch.float64)
    return (prototypes[label] + NOISE * noise).float().double(), label


def distances(attack: Any, network: Network, images: torch.Tensor, label: torch.Tensor) -> np.ndarray:
    """Run the attack; return the L2 norms of its perturbations."""
    model = foolbox.PyTorchModel(network.eval(), bounds=BOUNDS, device="cpu")
    perturbed, _, success = attack(model, images, label, epsilons=None)
    assert success.all(), "choose another seed: Foolbox did not reach a boundary"
    return (perturbed - images).flatten(1).norm(dim=1).numpy()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    generator = torch.Generator().manual_seed(SEED)
    prototypes = torch.randn((CLASSES, CHANNELS, SIZE, SIZE), generator=generator, dtype=torch.float64) / 2
    params = train(initial(generator), prototypes, generator)
    images, _ = draw(prototypes, COUNT, generator)
    network = Network(params)
    with torch.no_grad():
        logits = network(images)
    label = logits.argmax(1)
    options = {"steps": MAX_STEPS, "candidates": CLASSES, "overshoot": OVERSHOOT}
    stored = {f"params/{name}": value.numpy().astype(np.float32) for name, value in params.items()}
    stored |= {"images": images.permute(0, 2, 3, 1).numpy().astype(np.float32)}
    stored |= {"label": label.numpy(), "logits": logits.numpy()}
    stored["stock"] = distances(foolbox.attacks.L2DeepFoolAttack(**options), network, images, label)
    stored["exact"] = distances(ExactDeepFool(**options), network, images, label)
    np.savez_compressed(out, **stored)
    print(f"{out}: {out.stat().st_size} bytes, distances {stored['exact'].min():.3f} to {stored['exact'].max():.3f}")


if __name__ == "__main__":
    main()
