"""How parameters are changed: the sections `optim`, `schedule` and `ema` of a config."""

import dataclasses
from typing import Literal

from port.ranges import Count, CountOrZero, NotNegative, Positive, Share, ShareAbove0, ShareBelow1


@dataclasses.dataclass
class Group:
    """Parameters that are optimised in their own way: a row of `Optim.groups`.

    Attributes:
        pattern: regular expression that matches whole parameter paths.
        lr_scale: factor on the learning rate, on top of that of `layer_decay`.
        weight_decay: instead of the run's; None for the run's, with its exemptions.
        frozen: leave these parameters as they are.
    """

    pattern: str
    lr_scale: NotNegative = 1.0
    weight_decay: NotNegative | None = None
    frozen: bool = False


@dataclasses.dataclass
class Optim:
    """From gradients to updates, in timm's order: clipping, decay, the optimiser, the learning rate.

    Attributes:
        name: of the optimiser; sgd and nmuon are Nesterov's, momentum is plain.
        lr: peak learning rate.
        lr_base_size: batch size that `lr` is meant for. The batch size of the run scales it: linearly, or by the square
            root for adaptive optimisers. None to take `lr` as it is.
        momentum: of sgd, momentum, rmsproptf, muon and nmuon.
        betas: decay of the running averages of adamw, nadamw, lamb, lion, muon, nmuon, adopt and adanw (of gradients
            and of their differences); None for the optimiser's own.
        eps: added to denominators; None for the optimiser's own.
        weight_decay: strength of the decay towards 0.
        decay_rule: which parameters decay: "timm" (all but vectors, biases, tokens and position embeddings) or
            "deepmind" (nor the gains of standardised convolutions).
        decoupled_decay: sgd and rmsproptf only: shrink the parameters instead of adding to the gradient. The others
            do what their papers say.
        clip_mode: "agc", adaptive gradient clipping (2102.06171 section 4.1); "norm", of all gradients together; or
            "value", of each element.
        clip_grad: the largest ratio, norm or value that passes unchanged; None to clip nothing.
        layer_decay: learning rate of each layer relative to the next one; None for the same everywhere.
        layer_decay_min_scale: that of no layer is less than this share of the run's.
        lookahead: share of the way that slow weights go to the trained ones after every `lookahead_steps` steps, which
            then go on from them (1907.08610); 0 for none, 0.5 is usual.
        lookahead_steps: see there.
        freeze: regular expressions; parameters whose whole path matches one stay as they are.
        groups: if there are any, each parameter must match exactly one of them.
    """

    name: Literal[
        "sgd", "momentum", "adamw", "nadamw", "lamb", "rmsproptf", "lion", "muon", "nmuon", "adopt", "adanw"
    ] = "sgd"
    lr: NotNegative = 0.1
    lr_base_size: Count | None = None
    momentum: ShareBelow1 = 0.9
    betas: tuple[ShareBelow1, ShareBelow1] | None = None
    eps: NotNegative | None = None
    weight_decay: NotNegative = 2e-5
    decay_rule: Literal["timm", "deepmind"] = "timm"
    decoupled_decay: bool = False
    clip_mode: Literal["agc", "norm", "value"] = "agc"
    clip_grad: Positive | None = None
    layer_decay: ShareAbove0 | None = None
    layer_decay_min_scale: Share = 0.0
    lookahead: Share = 0.0
    lookahead_steps: Count = 6
    freeze: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()


@dataclasses.dataclass
class Schedule:
    """The learning rate over time (timm `create_scheduler_v2`).

    Attributes:
        name: of the curve; wsd is warm-up, stable, decay.
        on_updates: change the learning rate with every step; otherwise once an epoch.
        warmup_epochs: linear warm-up from `warmup_lr`.
        warmup_lr: learning rate at the start.
        warmup_prefix: the warm-up comes before the epochs of the run instead of being the first of them.
        min_lr: learning rate at the end of the decay.
        power: poly: of what is left of the cycle.
        k_decay: cosine and poly: power of the progress through the cycle (2004.05909).
        milestones: multistep: epochs of the decays, in order.
        cycle_limit: how many times cosine, linear, poly and tanh start again.
        cycle_mul: length of a cycle relative to the one before.
        cycle_decay: peak of a cycle relative to the one before.
        cooldown_epochs: epochs at `min_lr` after the decay, on top of those of the run.
        decay_epochs: step: epochs between decays, 1 at least; wsd: length of the decay, below 1 as a share.
        decay_rate: step, multistep and plateau: factor of one decay.
        patience_epochs: plateau: evaluations without improvement before a decay.
        threshold: plateau: smallest relative improvement that counts.
    """

    name: Literal["cosine", "linear", "poly", "tanh", "step", "multistep", "wsd", "plateau", "constant"] = "cosine"
    on_updates: bool = True
    warmup_epochs: NotNegative = 0.0
    warmup_lr: NotNegative = 0.0
    warmup_prefix: bool = False
    min_lr: NotNegative = 0.0
    power: Positive = 0.5
    k_decay: Positive = 1.0
    milestones: tuple[Positive, ...] = ()
    cycle_limit: Count = 1
    cycle_mul: Positive = 1.0
    cycle_decay: NotNegative = 0.1
    cooldown_epochs: NotNegative = 0.0
    decay_epochs: Positive = 0.2
    decay_rate: Positive = 0.1
    patience_epochs: CountOrZero = 10
    threshold: NotNegative = 1e-4


@dataclasses.dataclass
class Ema:
    """The exponential moving average of the parameters (timm `ModelEmaV3`); it is what gets evaluated and saved.

    Attributes:
        decay: share of the average that a step keeps; 0 for no average.
        warmup: start with a smaller decay, 1 - (1 + step)^(-2/3).
    """

    decay: Share = 0.0
    warmup: bool = False
