"""What trainings are told; read by command lines, so without JAX."""

import dataclasses
from typing import Literal

from jaxfair.data.config import Augmentation
from jaxfair.options import Options

Method = Literal["none", "lagrangian", "lagrangian-detached", "lagrangian-published", "cvar", "arl", "alignment"]
Distance = Literal["softmax-gap", "impurity"]


@dataclasses.dataclass(frozen=True)
class MitigationConfig(Options):
    """Which objective replaces the mean loss. A value, so it is a static jit argument.

    Attributes:
        method: ``none`` is the mean loss. ``lagrangian`` adds the gaps between the groups' losses and the batch's, each
            times a multiplier that grows with the gap (Das et al. 2024, Algorithm 1). ``lagrangian-detached`` has the
            same value but the gradient of the mean loss, as in the code published with that paper;
            ``lagrangian-published`` does all that this code does: there the distillation is averaged over the classes
            too, so it weighs 1 / C of what it weighs without mitigation. ``cvar`` is the mean
            of the worst losses and ``arl`` a mean with weights chosen by an adversary; both need no groups.
            ``alignment`` adds ``weight`` times the gaps between the groups' mean distances to the decision boundary and
            the batch's (Nelaturu et al. 2024).
        rate: the paper's mu, by which a multiplier grows per unit of gap and batch; 1e-3 is Algorithm 1's default.
            Multipliers never fall, so with a rate that is large for the number of batches they outgrow the loss, and
            SGD diverges.
        level: the share of the batch that counts for ``cvar``, in (0, 1]; 1 is the mean loss. Levy et al. 2020 take
            0.1 for ImageNet and 0.02 for digits (in their published hyperparameters).
        adversary_rate: the learning rate of the adversary's Adagrad. Lahoti et al. 2020 take 1e-3 for two of their
            three data sets and 2 for the other (in their published hyperparameters).
        weight: the lambda of ``alignment``; 0 is plain training. We know of no number of the paper's, the default is
            ours: on digits in ten groups it is good by either distance. A constant network is aligned too, so with too
            large a weight it learns nothing: there 0.1 is too large by ``softmax-gap``, and 0.3 by ``impurity``.
        distance: what ``alignment`` compares; the paper leaves it open. ``impurity`` is ``1 - sum_k f_k^2``, 2h(1-h)
            with two classes, and large near the boundary; ``softmax-gap`` the largest softmax score minus the second
            largest.
            Neither sees the label, so a group may align on the wrong side; impurity is flat at equal scores, the
            softmax gap has a kink there and does that sooner.

    Example:
        >>> from jaxfair import MitigationConfig
        >>> MitigationConfig("lagrangian", rate=1e-2).method
        'lagrangian'
    """

    method: Method = "none"
    rate: float = 1e-3
    level: float = 0.1
    adversary_rate: float = 1e-3
    weight: float = 0.03
    distance: Distance = "impurity"


@dataclasses.dataclass(frozen=True)
class TrainConfig(Options):
    """How a network is trained; the defaults are those of the full network in Cho et al. 2022 and Das et al. 2024.

    Unlike theirs, images are not augmented by default.

    Attributes:
        epochs: the number of passes over the training set.
        batch_size: the number of images in a step.
        learning_rate: the rate of SGD with which the schedule begins.
        momentum: the momentum of SGD, in [0, 1).
        nesterov: whether the momentum is Nesterov's.
        weight_decay: this times a parameter is added to its gradient, as in PyTorch's SGD; batch norm is not exempt.
        schedule: ``step`` divides the rate by 10 after 1/2 and 3/4 of the steps, ``cosine`` decays it to 0, and
            ``constant`` leaves it.
        augment: ``cifar`` crops and mirrors images; leave ``none`` for digits.
        label_weight: the factor on the cross-entropy with the labels.
        distillation_weight: the factor on the distillation loss from a teacher; it has to be 0 without one.
        temperature: the temperature of the distillation.
        mitigation: what is minimised instead of the mean loss.
        checkpoint_seconds: the time between checkpoints in seconds; they are written after an epoch, so that a killed
            run loses at most this and one epoch.

    Example:
        >>> from jaxfair import MitigationConfig, TrainConfig
        >>> TrainConfig(epochs=20, mitigation=MitigationConfig("lagrangian")).schedule
        'step'
    """

    epochs: int = 160
    batch_size: int = 256
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    augment: Augmentation = "none"
    label_weight: float = 1.0
    distillation_weight: float = 0.0
    temperature: float = 4.0
    mitigation: MitigationConfig = MitigationConfig()
    checkpoint_seconds: float = 60.0


SNL_FINETUNE = TrainConfig(epochs=100, learning_rate=1e-3, schedule="cosine", distillation_weight=1.0)
"""Fine-tuning after Selective Network Linearization (Cho et al. 2022, Alg. 1, line 12)."""

DEEPREDUCE_TRAIN = TrainConfig(
    epochs=200,
    batch_size=512,
    learning_rate=1e-3,
    nesterov=True,
    schedule="cosine",
    label_weight=0.5,
    distillation_weight=0.5,
    temperature=1.0,
)
"""Training of a DeepReDuce student (Das et al. 2024, in their code)."""
