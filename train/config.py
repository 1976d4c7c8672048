"""What a training run can be told. A config file's `get_config()` returns a `Config`.

Every field can be overridden on the command line: `--config.optim.lr=0.1`. A misspelt field is an error.
"""

import dataclasses


@dataclasses.dataclass
class Model:
    """Arguments of `nfjax.load`.

    Attributes:
        name: model name.
        weights: "pretrained", a path, or None to start from fresh weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.
        dtype: compute dtype; parameters are float32.
    """

    name: str = "test_nfnet"
    weights: str | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: str = "float32"


@dataclasses.dataclass
class Data:
    """The images.

    Attributes:
        name: a data set of `train.data.DATASETS`.
        image_size: side of the images in pixels.
        batch_size: images per step, over all devices.
        shift: largest random shift in training, in pixels.
    """

    name: str = "digits"
    image_size: int = 32
    batch_size: int = 64
    shift: int = 0


@dataclasses.dataclass
class Optim:
    """SGD with Nesterov momentum, adaptive gradient clipping and a cosine schedule.

    Attributes:
        lr: peak learning rate, at the given batch size.
        momentum: of Nesterov's accelerated gradient.
        weight_decay: coupled, added to the gradient after clipping.
        agc: adaptive gradient clipping factor (2102.06171 section 4.1); 0 switches it off.
        agc_eps: smallest parameter norm that AGC reckons with.
        warmup_epochs: linear warm-up from 0, before the cosine.
        final_lr: learning rate at the end of the cosine.
        label_smoothing: weight of the uniform distribution in the targets.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-5
    agc: float = 0.01
    agc_eps: float = 1e-3
    warmup_epochs: float = 1.0
    final_lr: float = 0.0
    label_smoothing: float = 0.0


@dataclasses.dataclass
class Config:
    """One run.

    Attributes:
        seed: of the weights, the order of the images and every random choice of a step.
        epochs: passes over the training images.
        eval_epochs: passes between evaluations.
        checkpoint_epochs: passes between checkpoints.
        log_steps: steps between lines of the metrics file.
    """

    seed: int = 0
    epochs: int = 30
    eval_epochs: int = 5
    checkpoint_epochs: int = 5
    log_steps: int = 10
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
