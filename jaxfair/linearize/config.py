"""What the linearization methods are told; read by command lines, so without JAX."""

import dataclasses
import re
from typing import Literal

from jaxfair.data.config import Augmentation
from jaxfair.errors import JaxfairError
from jaxfair.options import Options
from jaxfair.training.config import TrainConfig

Accept = Literal["accuracy", "loss", "worst-group", "cvar"]

CULLED_SETS = ((1,), (1, 4), (1, 2), (1, 2, 3), (2, 3), (1, 2, 4), (3, 4), (2, 3, 4), (1, 3), (1, 3, 4), (1, 2, 3, 4))
"""The eleven sets of stages that Das et al. 2024 cull."""

SENET_MASKS = TrainConfig(
    epochs=150,
    batch_size=128,
    learning_rate=0.05,
    schedule="constant",
    label_weight=0.5,
    distillation_weight=0.5,
)
"""Training of the mask stage (Kundu et al. 2023; no schedule is known to us)."""

SENET_FINETUNE = TrainConfig(epochs=240, batch_size=128, learning_rate=0.01, label_weight=0.5, distillation_weight=0.5)
"""Fine-tuning after the mask stage (Kundu et al. 2023, who divide the rate by 10 after epochs 150, 180 and 210)."""

PRAM = 1000.0
"""The factor on the distance of attention maps in the fine-tuning (their beta)."""

BCD_FINETUNE = TrainConfig(epochs=20, learning_rate=1e-3, schedule="cosine", distillation_weight=1.0)
"""Fine-tuning after each block, as published."""


@dataclasses.dataclass(frozen=True)
class SnlConfig(Options):
    """How masks and weights descend; the defaults are those of Cho et al. 2022 and their published settings.

    Attributes:
        batch_size: the number of images in a step.
        learning_rate: the rate of the one Adam that trains weights and masks. Keep it well below ``threshold``: Adam
            leaves a mask swinging around 0 by about the learning rate, and it counts as a ReLU whenever it is above.
        temperature: the temperature of the distillation from the full network.
        kappa: the weight of the L1 norm of the masks with which the descent begins.
        kappa_growth: the factor on kappa after an epoch that found no new lowest count of ReLUs.
        warmup_epochs: the number of epochs before kappa may grow.
        threshold: a unit counts as a ReLU while its mask exceeds this.
        max_epochs: the number of epochs after which the descent gives up.
        rule: ``exact`` keeps the budget's number of largest masks; ``threshold`` keeps those above the threshold, at
            most the budget, as the authors' code does.
        augment: ``cifar`` crops and mirrors images, ``none`` leaves them.
        checkpoint_seconds: the time between checkpoints in seconds; they are written after an epoch, so that a killed
            descent loses at most this and one epoch.
    """

    batch_size: int = 256
    learning_rate: float = 1e-3
    temperature: float = 4.0
    kappa: float = 1e-5
    kappa_growth: float = 1.1
    warmup_epochs: int = 5
    threshold: float = 1e-2
    max_epochs: int = 2000
    rule: Literal["exact", "threshold"] = "exact"
    augment: Augmentation = "none"
    checkpoint_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class DeepReduceConfig(Options):
    """One DeepReDuce configuration.

    Attributes:
        culled: the stages, counted from 1, that lose all their ReLUs.
        thinned: whether the second ReLU of every remaining block goes too.
        channel_scale: the paper's alpha, a factor on the width.
        resolution_scale: the paper's rho; the stem's stride is multiplied by 1 / rho.
        start: ``fresh`` trains the student from new weights, as the paper does; ``base`` starts from the full
            network's, which needs both scales to be 1.
    """

    culled: tuple[int, ...] = (1,)
    thinned: bool = False
    channel_scale: float = 1.0
    resolution_scale: float = 1.0
    start: Literal["fresh", "base"] = "fresh"

    @property
    def name(self) -> str:
        """The short name: C with the culled stages, T for thinning, and scales where they are not 1."""
        parts = ["C" + "".join(map(str, self.culled)) if self.culled else "", "T" if self.thinned else ""]
        parts += [f"a{self.channel_scale:g}" if self.channel_scale != 1 else ""]
        parts += [f"r{self.resolution_scale:g}" if self.resolution_scale != 1 else ""]
        return "+".join(part for part in parts if part) or "full"

    @classmethod
    def parse(cls, name: str, start: Literal["fresh", "base"] = "fresh") -> "DeepReduceConfig":
        """Return the configuration of a short name such as ``C12``, ``C14+T`` or ``C1+a0.5+r0.5``.

        Args:
            name: the name, as the property ``name`` returns it.
            start: what the student starts from, which a name does not tell.

        Raises:
            JaxfairError: the name is not of this form.
        """
        match = re.fullmatch(r"(?:C(\d+))?\+?(T)?\+?(?:a(\d+(?:\.\d+)?))?\+?(?:r(\d+(?:\.\d+)?))?", name)
        if not name or match is None or match.group(0).strip("+") != name:
            raise JaxfairError(
                f"'{name}' is no DeepReDuce configuration; write C and the stages to cull, +T to thin, "
                "+a and +r with the channel and resolution scale, for example C12+T+a0.5."
            )
        culled, thinned, channel, resolution = match.groups()
        stages = tuple(sorted({int(digit) for digit in culled or ""}))
        return cls(stages, thinned is not None, float(channel or 1), float(resolution or 1), start)


@dataclasses.dataclass(frozen=True)
class SenetConfig(Options):
    """How layers get their budgets, and units their masks.

    Attributes:
        sparsity: the share of all weights that is zero when the sparse training ends. The paper's is not known to us.
        sparse_train: how new weights are trained while more and more of them are pruned; by default as the full network
            is trained.
        mask_train: how the student is trained while its masks are chosen.
        balanced: whether every group counts the same, whatever its size, in the loss of the sparse training and in the
            mismatch of activations. The mask stage's own loss stays what it is, so that only the choice changes.
    """

    sparsity: float = 0.9
    sparse_train: TrainConfig = TrainConfig()
    mask_train: TrainConfig = SENET_MASKS
    balanced: bool = False


@dataclasses.dataclass(frozen=True)
class BcdConfig(Options):
    """How ReLUs are removed, block by block.

    Attributes:
        block: the ReLUs of a block; published are 100 to 200, and up to 2,000. The last one has what is left.
        tries: the random blocks that are tried before the least bad of them goes.
        threshold: the first block goes by which the risk rises by less than this; published are 0.003 to 0.005 of
            accuracy.
        accept: the risk, which is measured on images that the network is trained on: ``accuracy`` is the share of them
            that it gets wrong, as published; ``loss`` is their mean cross-entropy in nats, ``worst-group`` the largest
            of the groups' mean losses, and ``cvar`` the mean of the largest ``level`` of all losses, without groups.
        level: the share of the images that counts for ``cvar``, in (0, 1].
        validation: the share of the images that are held back, by class and group, and on which the risk is measured
            instead: a network that has learnt its images by heart misses nothing on these. 0 is as published.
        finetune: how the network is trained after each block.
    """

    block: int = 100
    tries: int = 50
    threshold: float = 0.003
    accept: Accept = "accuracy"
    level: float = 0.1
    validation: float = 0.0
    finetune: TrainConfig = BCD_FINETUNE
