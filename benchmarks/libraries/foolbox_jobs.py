"""Foolbox's DeepFool on the PyTorch network (Rauber et al. 2020)."""

from typing import Any

import numpy as np
import torch
from foolbox import PyTorchModel
from foolbox.attacks import L2DeepFoolAttack

from benchmarks.jobs import Job
from benchmarks.libraries import pytorch_jobs as pytorch
from benchmarks.problems import Problem

DISTRIBUTION = "foolbox"
FAR = 1000.0  # pixel values that no search reaches: ours is not confined


def margins(problem: Problem) -> dict[str, Job]:
    """DeepFool with all classes and as many steps, away from each example's prediction."""
    if problem.spec.kind == "gpt":
        return {}
    x, _ = pytorch.batch_of(problem)
    model = PyTorchModel(pytorch.to_torch(problem), bounds=(-FAR, FAR), device=pytorch.device())

    def run() -> Any:
        label = model(x).argmax(dim=-1)
        return L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02).run(model, x, label)

    def answer(perturbed: Any) -> np.ndarray:
        return torch.linalg.vector_norm((perturbed - x).flatten(1), dim=1).cpu().numpy()

    return {"DeepFool": Job("distance", run, answer)}
