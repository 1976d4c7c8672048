"""What a run is taught beside its labels, and how little of the model it changes."""

import dataclasses
from typing import Annotated, Literal

from port.ranges import CountOrZero, Length, NotNegative, Positive


@dataclasses.dataclass
class Lora:
    """Low-rank adapters (2106.09685): they and the classifier are trained, everything else stays (docs/teachers.md).

    Attributes:
        rank: of each adapter; 0 for no adapters.
        alpha: the product of an adapter's matrices counts alpha / rank times.
        targets: regular expressions that match whole paths of kernels of linear layers and 1x1 convolutions; none for
            all of those that are larger than the rank.
    """

    rank: CountOrZero = 0
    alpha: Positive = 16.0
    targets: tuple[str, ...] = ()


@dataclasses.dataclass
class Distill:
    """A teacher: a model whose outputs for the same images are targets too (docs/teachers.md).

    The loss is `task_weight` times that of the labels and `weight` times that of the teacher.

    Attributes:
        teacher: name of a model, folder, or run; None for none. Its classes are found by name, and must have those of
            the data set.
        kind: "kl", divergence of the softmax from the teacher's; "hard", cross-entropy with its most probable class;
            "bce", binary cross-entropy with its probability of each class; or "features", the mean squared difference
            of what enters the classifiers, through a linear layer where the widths differ.
        weight: of the teacher's loss.
        task_weight: of the loss of the labels.
        temperature: of kl and bce: logits are divided by it, and the loss is multiplied by its square.
        cache: ask the teacher once for each image, before training, and keep the answers in WORKDIR/teacher; images
            must not be changed at random.
    """

    teacher: Annotated[str, Length(1, 4096)] | None = None
    kind: Literal["kl", "hard", "bce", "features"] = "kl"
    weight: NotNegative = 1.0
    task_weight: NotNegative = 1.0
    temperature: Positive = 1.0
    cache: bool = False
