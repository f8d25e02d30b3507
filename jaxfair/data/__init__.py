"""Data sets: images with a label and a group each, and where they come from."""

from jaxfair.data.dataset import (
    Augmentation,
    Dataset,
    augment,
    channel_statistics,
    epoch_order,
    make_dataset,
    normalize,
    split,
    thin,
    with_training_statistics,
)

__all__ = [
    "Augmentation",
    "Dataset",
    "augment",
    "channel_statistics",
    "epoch_order",
    "make_dataset",
    "normalize",
    "split",
    "thin",
    "with_training_statistics",
]
