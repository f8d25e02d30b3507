"""Networks with a gate for every ReLU unit, and what is computed with them; they know no training."""

from jaxfair.networks.architectures import CNN, EPSILON, STAGE_SIZES, Module, ResNet, gated_relu
from jaxfair.networks.gathered import Gathered, gathered
from jaxfair.networks.network import Network, apply_train, check_images, fold, frozen, init, predict, shapes

__all__ = [
    "CNN",
    "EPSILON",
    "STAGE_SIZES",
    "Gathered",
    "Module",
    "Network",
    "ResNet",
    "apply_train",
    "check_images",
    "fold",
    "frozen",
    "gated_relu",
    "gathered",
    "init",
    "predict",
    "shapes",
]
