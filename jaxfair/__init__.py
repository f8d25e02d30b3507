"""jaxfair: who loses when a network is changed after the fact, and why, in JAX.

The names below are what a user needs; each is loaded when it is first used, so importing jaxfair stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxfair.bounds import excess_loss_bound as excess_loss_bound
    from jaxfair.bounds import sensitivity_bound as sensitivity_bound
    from jaxfair.change import ChangeReport as ChangeReport
    from jaxfair.change import change_report as change_report
    from jaxfair.compress.pruning import PruneConfig as PruneConfig
    from jaxfair.compress.pruning import kept_weights as kept_weights
    from jaxfair.compress.pruning import prune as prune
    from jaxfair.compress.quantization import quantize as quantize
    from jaxfair.curvature.blocks import block_curvature as block_curvature
    from jaxfair.curvature.config import CurvatureConfig as CurvatureConfig
    from jaxfair.curvature.operators import GroupOperator as GroupOperator
    from jaxfair.curvature.operators import per_example_gradient_norms as per_example_gradient_norms
    from jaxfair.curvature.report import GroupReport as GroupReport
    from jaxfair.curvature.report import group_report as group_report
    from jaxfair.curvature.sampling import eigenvalue_sampling as eigenvalue_sampling
    from jaxfair.curvature.sampling import equal_count_eigenvalues as equal_count_eigenvalues
    from jaxfair.curvature.sampling import gradient_sampling as gradient_sampling
    from jaxfair.curvature.spectrum import GroupCurvature as GroupCurvature
    from jaxfair.curvature.spectrum import group_curvature as group_curvature
    from jaxfair.data.dataset import Dataset as Dataset
    from jaxfair.data.dataset import make_dataset as make_dataset
    from jaxfair.data.sources import load as load
    from jaxfair.errors import JaxfairError as JaxfairError
    from jaxfair.groups import group_means as group_means
    from jaxfair.groups import group_weights as group_weights
    from jaxfair.groups import relative_drop as relative_drop
    from jaxfair.linearize.bcd import bcd as bcd
    from jaxfair.linearize.deepreduce import deepreduce as deepreduce
    from jaxfair.linearize.senet import senet as senet
    from jaxfair.linearize.snl import snl as snl
    from jaxfair.margins import deepfool as deepfool
    from jaxfair.margins import linearized_distance as linearized_distance
    from jaxfair.margins import softmax_gap as softmax_gap
    from jaxfair.networks.architectures import CNN as CNN
    from jaxfair.networks.architectures import ResNet as ResNet
    from jaxfair.networks.gathered import gathered as gathered
    from jaxfair.networks.network import Network as Network
    from jaxfair.networks.network import frozen as frozen
    from jaxfair.networks.network import init as init
    from jaxfair.networks.network import predict as predict
    from jaxfair.training.config import MitigationConfig as MitigationConfig
    from jaxfair.training.config import TrainConfig as TrainConfig
    from jaxfair.training.fit import fit as fit

_ROOMS = {
    "change": ("ChangeReport", "change_report"),
    "bounds": ("excess_loss_bound", "sensitivity_bound"),
    "compress.pruning": ("PruneConfig", "kept_weights", "prune"),
    "compress.quantization": ("quantize",),
    "curvature.blocks": ("block_curvature",),
    "curvature.operators": ("GroupOperator", "per_example_gradient_norms"),
    "curvature.report": ("GroupReport", "group_report"),
    "curvature.sampling": ("eigenvalue_sampling", "equal_count_eigenvalues", "gradient_sampling"),
    "curvature.config": ("CurvatureConfig",),
    "curvature.spectrum": ("GroupCurvature", "group_curvature"),
    "data.dataset": ("Dataset", "make_dataset"),
    "data.sources": ("load",),
    "errors": ("JaxfairError",),
    "groups": ("group_means", "group_weights", "relative_drop"),
    "linearize.bcd": ("bcd",),
    "linearize.deepreduce": ("deepreduce",),
    "linearize.senet": ("senet",),
    "linearize.snl": ("snl",),
    "margins": ("deepfool", "linearized_distance", "softmax_gap"),
    "networks.architectures": ("CNN", "ResNet"),
    "networks.gathered": ("gathered",),
    "networks.network": ("Network", "frozen", "init", "predict"),
    "training.fit": ("fit",),
    "training.config": ("MitigationConfig", "TrainConfig"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted(_ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'jaxfair' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"jaxfair.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
