"""Data sets: images with a label and a group each, and where they come from."""

from jaxfair.data.dataset import Augmentation, Dataset, augment, channel_statistics, make_dataset, normalize
from jaxfair.data.sources import Loaded, SourceConfig, load
from jaxfair.data.splits import epoch_order, split, thin, with_training_statistics

__all__ = [
    "Augmentation",
    "Dataset",
    "Loaded",
    "SourceConfig",
    "augment",
    "channel_statistics",
    "epoch_order",
    "load",
    "make_dataset",
    "normalize",
    "split",
    "thin",
    "with_training_statistics",
]
