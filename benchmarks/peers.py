"""The same network in PyTorch, as a plain nn.Module, and PyHessian on it. Needs the ``bench`` extra."""

from typing import Any

import numpy as np
import torch
from jax.tree_util import keystr, tree_flatten_with_path
from torch import nn
from torch.nn import functional

from benchmarks.problems import Problem
from jaxfair.models import Network


class Block(nn.Module):
    """A basic residual block whose units are all ReLUs."""

    def __init__(self, fan_in: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.shortcut_conv = None
        if stride != 1 or fan_in != features:
            self.shortcut_conv = nn.Conv2d(fan_in, features, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.shortcut_conv is not None:
            x = self.shortcut_norm(self.shortcut_conv(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """The published network with every unit a ReLU, under jaxfair's names."""

    def __init__(self, stage_sizes: tuple[int, ...], num_classes: int, width: int):
        super().__init__()
        self.stem_conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, fan_in = nn.ModuleDict(), width
        for stage, size in enumerate(stage_sizes):
            for block in range(size):
                features = width * 2**stage
                stride = 2 if stage and not block else 1
                blocks[f"stage{stage + 1}_block{block + 1}"] = Block(fan_in, features, stride)
                fan_in = features
        self.blocks = blocks
        self.head = nn.Linear(fan_in, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of NCHW images."""
        x = self.stem_norm(self.stem_conv(x))
        for block in self.blocks.values():
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


def to_torch(network: Network) -> ResNet:
    """Return the network in PyTorch, in evaluation mode, with the same weights."""
    module = ResNet(network.module.stage_sizes, network.module.num_classes, network.module.width)
    names = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    state = {}
    for tree in (network.params, network.batch_stats):
        for path, leaf in tree_flatten_with_path(tree)[0]:
            *where, last = keystr(path, simple=True, separator="/").split("/")
            value = np.asarray(leaf)
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            prefix = ["blocks"] if where[0].startswith("stage") else []
            state[".".join([*prefix, *where, names[last]])] = torch.tensor(np.ascontiguousarray(value))
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("num_batches_tracked" in name for name in missing), missing
    return module.eval()


def batch_of(problem: Problem, group: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return NCHW images and labels of one group, or of all."""
    chosen = slice(None) if group is None else np.flatnonzero(problem.group == group)
    images = np.asarray(problem.x)[chosen].transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(images)), torch.tensor(np.asarray(problem.y)[chosen]).long()


def pyhessian(module: ResNet, batch: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Return PyHessian's object for one batch; its constructor does the forward and backward pass."""
    from pyhessian import hessian

    module.zero_grad()  # the constructor adds to the gradients of an earlier one
    return hessian(module, nn.CrossEntropyLoss(), data=batch, cuda=False)
