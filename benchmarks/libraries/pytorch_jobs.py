"""PyTorch itself, and the problem's network as a plain ``nn.Module`` for the libraries built on it.

Images and kernels lie as NCHW or as channels_last (``LAYOUTS``): which one is faster depends on the machine, so jobs
that count against this library are there in both.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import torch
from jax.tree_util import keystr, tree_flatten_with_path
from torch import nn
from torch.nn import functional

from benchmarks.jobs import Job
from benchmarks.libraries.jaxfair_jobs import SGD
from benchmarks.libraries.jaxfair_jobs import vector as our_vector
from benchmarks.problems import GREYS, Problem, Spec
from benchmarks.transformer import HEAD
from jaxfair.networks.network import Network

# Full float32 on GPUs too, as jaxfair has it.
torch.backends.cudnn.allow_tf32 = False
torch.set_float32_matmul_precision("highest")
torch.backends.cudnn.benchmark = True  # the fastest of cuDNN's kernels, as XLA also chooses by timing

DISTRIBUTION = "torch"
LAYOUTS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
"""What a job's name ends with, and how its images and kernels lie in memory."""
EMBEDDINGS = ("token.weight", "position.weight")
Batch = tuple[torch.Tensor, torch.Tensor]


class Block(nn.Module):
    """A residual block whose units are all ReLUs: two convolutions, or a bottleneck of three."""

    def __init__(self, fan_in: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        out, sizes = (4 * features, (1, 3, 1)) if bottleneck else (features, (3, 3))
        channels = [fan_in, *[features] * (len(sizes) - 1), out]
        self.depth = len(sizes)
        for i, size in enumerate(sizes, 1):
            step = stride if i == self.depth - 1 else 1
            self.add_module(f"conv{i}", nn.Conv2d(channels[i - 1], channels[i], size, step, size // 2, bias=False))
            self.add_module(f"norm{i}", nn.BatchNorm2d(channels[i]))
        self.shortcut_conv = None
        if stride != 1 or fan_in != out:
            self.shortcut_conv = nn.Conv2d(fan_in, out, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        y = x
        for i in range(1, self.depth + 1):
            y = self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(y))
            y = functional.relu(y) if i < self.depth else y
        if self.shortcut_conv is not None:
            x = self.shortcut_norm(self.shortcut_conv(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """The published network with every unit a ReLU, under jaxfair's names."""

    def __init__(self, spec: Spec, num_classes: int, channels: int):
        super().__init__()
        self.stem_conv = nn.Conv2d(channels, spec.width, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(spec.width)
        blocks, fan_in, bottleneck = nn.ModuleDict(), spec.width, spec.kind == "bottleneck"
        for stage, size in enumerate(spec.sizes):
            for block in range(size):
                features = spec.width * 2**stage
                stride = 2 if stage and not block else 1
                blocks[f"stage{stage + 1}_block{block + 1}"] = Block(fan_in, features, stride, bottleneck)
                fan_in = 4 * features if bottleneck else features
        self.blocks = blocks
        self.head = nn.Linear(fan_in, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of NCHW images."""
        x = self.stem_norm(self.stem_conv(x))
        for block in self.blocks.values():
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class MLP(nn.Module):
    """Layers named ``0``, ``1``, ... with ReLUs between them."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits of NCHW images with one channel."""
        x = x.flatten(1)
        for layer in list(self.layers)[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class GPT(nn.Module):
    """``benchmarks.transformer`` under its names."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleDict({f"block{i + 1}": Attention(width) for i in range(layers)})
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute logits of each next token, where ``cross_entropy`` wants them: (n, vocabulary, length)."""
        x = self.token(tokens) + self.position.weight
        for block in self.blocks.values():
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)


class Attention(nn.Module):
    """A pre-norm block; attention is spelt out, since the fused one has no second derivative."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        count, length, width = x.shape
        parts = self.attention(self.norm1(x)).split(width, dim=2)
        q, k, v = (part.view(count, length, -1, HEAD).transpose(1, 2) for part in parts)
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = (q @ k.transpose(2, 3) / HEAD**0.5).masked_fill(later, -torch.inf).softmax(dim=3)
        x = x + self.projection((weights @ v).transpose(1, 2).reshape(count, length, width))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x))))


def device() -> torch.device:
    """Return CUDA where JAX runs on a GPU and PyTorch has it."""
    return torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")


def to_torch(problem: Problem, layout: str = "") -> nn.Module:
    """Return the network in PyTorch, in evaluation mode, with the same weights, in one of ``LAYOUTS``."""
    spec = problem.spec
    if isinstance(problem.network, Network):
        module: nn.Module = ResNet(spec, 10, problem.x.shape[-1])
        trees = [problem.network.params, problem.network.batch_stats]
    elif spec.kind == "gpt":
        module = GPT(GREYS, problem.x.shape[1], spec.width, *spec.sizes)
        trees = [problem.params]
    else:
        module = MLP([len(layer["kernel"]) for layer in problem.params] + [10])
        trees = [problem.params]
    state = {name: _tensor(name, leaf) for tree in trees for name, leaf in _named(tree)}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("num_batches_tracked" in name for name in missing), missing
    return module.eval().to(device(), memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Return PyTorch's name of every leaf of jaxfair's variables, in the order of jaxfair's flat vectors."""
    names = {"mean": "running_mean", "var": "running_var", "bias": "bias"}
    found = []
    for path, leaf in tree_flatten_with_path(tree)[0]:
        *where, last = keystr(path, simple=True, separator="/").split("/")
        prefix = ["blocks"] if where[0].startswith(("stage", "block")) else ["layers"] if where[0].isdigit() else []
        found.append((".".join([*prefix, *where, names.get(last, "weight")]), leaf))
    return found


def _tensor(name: str, leaf: Any) -> torch.Tensor:
    """Turn HWIO kernels into OIHW, and (in, out) matrices into (out, in); embeddings stay as they are."""
    return torch.tensor(np.ascontiguousarray(_turned(name, np.asarray(leaf), (3, 2, 0, 1))))


def _turned(name: str, value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if value.ndim == 4:
        return value.transpose(axes)
    return value if name in EMBEDDINGS else value.T


def vector(problem: Problem, module: nn.Module) -> list[torch.Tensor]:
    """Return the vector that all libraries multiply with, as one tensor a parameter."""
    sizes = np.cumsum([leaf.size for _, leaf in _named(problem.params)])
    parts = np.split(np.asarray(our_vector(problem)), sizes[:-1])
    named = _named(problem.params)
    tensors = {name: _tensor(name, part.reshape(leaf.shape)) for (name, leaf), part in zip(named, parts, strict=True)}
    return [tensors[name].to(device()) for name, _ in module.named_parameters()]


def flat(problem: Problem, module: nn.Module, tensors: Any) -> np.ndarray:
    """Return one tensor a parameter as a flat vector in jaxfair's order."""
    by_name = dict(zip([name for name, _ in module.named_parameters()], tensors, strict=True))
    values = {name: by_name[name].detach().cpu().numpy() for name, _ in _named(problem.params)}
    return np.concatenate([_turned(name, value, (2, 3, 1, 0)).ravel() for name, value in values.items()])


def split(module: nn.Module, whole: torch.Tensor) -> list[torch.Tensor]:
    """Cut a flat vector in PyTorch's order into one tensor a parameter."""
    sizes = [p.numel() for p in module.parameters()]
    parts = zip(whole.split(sizes), module.parameters(), strict=True)
    return [part.reshape(p.shape) for part, p in parts]


def batch_of(problem: Problem, group: int | None = None, layout: str = "") -> Batch:
    """Return NCHW images, which lie in one of ``LAYOUTS``, and labels of one group, or of the batch of products."""
    x, y = problem.batch if group is None else problem.members(group)
    if problem.spec.kind == "gpt":
        return torch.tensor(np.asarray(x)).long().to(device()), torch.tensor(np.asarray(y)).long().to(device())
    images = torch.tensor(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))
    images = images.to(device()).contiguous(memory_format=LAYOUTS[layout])
    return images, torch.tensor(np.asarray(y)).long().to(device())


def products(problem: Problem) -> dict[str, Job]:
    """Forward pass, gradient and Hessian product over the batch, in both layouts."""
    return {name + layout: job for layout in layouts(problem) for name, job in _products(problem, layout).items()}


def layouts(problem: Problem) -> list[str]:
    """Return those of ``LAYOUTS`` that a problem has: both of images, the one of matrices."""
    return [*LAYOUTS] if isinstance(problem.network, Network) else [""]


def _products(problem: Problem, layout: str) -> dict[str, Job]:
    module, (x, y) = to_torch(problem, layout), batch_of(problem, layout=layout)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return module(x)

    def gradient() -> Any:
        return torch.autograd.grad(functional.cross_entropy(module(x), y), list(module.parameters()))

    return {
        "forward": Job("logits", forward, lambda logits: np.moveaxis(logits.cpu().numpy(), 1, -1), 1),
        "gradient": Job("gradient", gradient, lambda found: flat(problem, module, found), 3),
        "Hessian product, torch.func": hessian_product(problem, module, (x, y), compiled=False),
        "Hessian product, torch.func compiled": hessian_product(problem, module, (x, y), compiled=True),
    }


def training(problem: Problem) -> dict[str, Job]:
    """One step of a ResNet's training on the batch, in both layouts; each call is a step after the last."""
    if not isinstance(problem.network, Network):
        return {}
    jobs = {}
    for layout in LAYOUTS:
        jobs[f"SGD step{layout}"] = _step(problem, layout, compiled=False)
        jobs[f"SGD step compiled{layout}"] = _step(problem, layout, compiled=True)
    return jobs


def _step(problem: Problem, layout: str, compiled: bool) -> Job:
    module, (x, y) = to_torch(problem, layout).train(), batch_of(problem, layout=layout)
    before = flat(problem, module, module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), SGD["learning_rate"], SGD["momentum"], 0, SGD["weight_decay"])
    forward = torch.compile(module, fullgraph=True) if compiled else module

    def run() -> nn.Module:
        optimizer.zero_grad()
        functional.cross_entropy(forward(x), y).backward()
        optimizer.step()
        return module

    def answer(trained: nn.Module) -> np.ndarray:
        return np.asarray(flat(problem, trained, trained.parameters()), np.float64) - before

    return Job("step", run, answer, 3)


def hessian_product(problem: Problem, module: nn.Module, batch: Batch, compiled: bool) -> Job:
    """Return what a user of PyTorch alone would write: the gradient of ``<gradient, v>``, faster than ``jvp`` of it."""
    (x, y), buffers = batch, dict(module.named_buffers())
    params = {key: value.detach() for key, value in module.named_parameters()}
    v = dict(zip(params, vector(problem, module), strict=True))
    grad = torch.func.grad

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(torch.func.functional_call(module, (p, buffers), (x,)), y)

    def inner(p: dict[str, torch.Tensor], v: dict[str, torch.Tensor]) -> torch.Tensor:
        gradient = grad(loss)(p)
        return torch.stack([(gradient[key] * v[key]).sum() for key in v]).sum()

    def product(p: dict[str, torch.Tensor], v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return grad(inner)(p, v)

    # Not in parts: what cannot be compiled would run as it is, unsaid.
    run = torch.compile(product, fullgraph=True) if compiled else product
    return Job("Hessian product", partial(run, params, v), lambda found: flat(problem, module, found.values()), 9)
