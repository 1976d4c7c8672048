"""What a training run can be told. A config file's `get_config()` returns a `Config`.

Every field can be overridden on the command line: `--config.optim.lr=0.1`; `--help` of `train.main` lists them all. The
types are the schema, with a choice as a `Literal`, and `train.cli.mistakes.check` holds a config to them; what depends
on several fields, on the images or on the devices is checked where it is used.
"""

import dataclasses
from typing import Annotated, Literal

from nfjax.augment.options import Augment
from port.ranges import Count, CountOrZero, Length, NotNegative, Positive, Range, Seed, Share, ShareAbove0, ShareBelow1
from train.settings.optim import Ema, Optim, Schedule
from train.settings.optim import Group as Group
from train.settings.teaching import Distill, Lora


@dataclasses.dataclass
class Model:
    """Arguments of `nfjax.load`.

    Attributes:
        name: model name, also "hf-hub:ORG/NAME" or "local-dir:PATH".
        weights: "pretrained"; the path of a file, of a folder or of another run; None to start from fresh weights.
        weights_key: which weights of a training checkpoint: "state_dict" for the raw ones; None for the averaged ones.
        resume_timm: a training checkpoint of timm's train.py that a new run continues, instead of beginning with
            `weights`: weights, optimiser, moving average, epoch. Once the run has checkpoints of its own, those count.
        resume_run: another run, for its newest checkpoint, or RUN/checkpoints/STEP, that a new run goes on from with
            this config, its schedule for one: weights, optimiser, moving average, steps. Once, as `resume_timm`.
        head_init_scale: factor on the classifier's first weights; None for 1.
        head_init_bias: what its first biases are instead; None to leave them.
        num_classes: outputs; None for as many as the data set has.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.
        dtype: of the computation; parameters are float32 unless this is float64.
        grad_checkpointing: recompute activations in the backward pass, block by block, instead of keeping them.
    """

    name: str = "test_nfnet"
    weights: str | None = None
    weights_key: str | None = None
    resume_timm: Annotated[str, Length(1, 4096)] | None = None
    resume_run: Annotated[str, Length(1, 4096)] | None = None
    head_init_scale: float | None = None
    head_init_bias: float | None = None
    num_classes: Count | None = None
    drop_rate: ShareBelow1 = 0.0
    drop_path_rate: ShareBelow1 = 0.0
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    grad_checkpointing: bool = False


@dataclasses.dataclass
class Data:
    """The images.

    Attributes:
        name: where they come from, see docs/data.md: digits, folder, manifest, tfds/NAME, hfds/ORG/NAME or wds/PATTERN.
        root: folder or file with the images; None where the source has a usual place.
        train_split: to train on, with TFDS slices: train[:99%], train[:1000]+extra.
        val_split: to test on; None for the first there is of validation, val, valid and test, and where there is none
            for `val_share` of the training images.
        val_share: of the images of each class.
        class_map: file with a class name a line, in the order of the model's outputs; None for the source's own order.
        input_key: column or feature with the image; None for the usual names.
        target_key: column or feature with the label; None for the usual names. With `multi_label` the column of lists,
            or several with commas between, a class each; None also for all columns but path and split.
        multi_label: an image may have several labels, or none, or unknown ones: see docs/multilabel.md.
        in_chans: 3 for RGB, 1 for greyscale; None for what the data set has.
        image_size: side of the training images in pixels; None for the model's own.
        test_size: side of the test images in pixels; None for `image_size` where it is given, and otherwise for the
            size that the model's weights do best with.
        crop_pct: share of the resized test image that is kept; None for the model's own.
        crop_mode: of test images; None for the model's own.
        interpolation: of test images; None for the model's own.
        mean: by channel, of pixels in [0, 1]; None for the data set's own or else the model's.
        std: likewise.
        batch_size: images per step, over all devices.
        shift: largest random shift in training, in pixels.
        aug_repeats: how often in a row an image is taken in training, changed differently each time; a pass then sees
            one of so many images. 0 or 1 for once.
        max_per_class: train on at most so many images of each class; None for all.
        balance: of the classes in training: 0 takes each image once in a pass, 1 each class equally often, 0.5 is
            between the two. A pass stays as long as it was.
        weight_key: column of a table with how often an image is to be taken, relative to others; None for all alike.
        cache: keep the images in memory once they are decoded, in each worker: for small data sets.
        workers: processes that read images, on each host; 0 for threads of the trainer.
        stall_seconds: how long a batch may take to come.
        max_broken: share of the training images that may be unreadable; others take their places.
    """

    name: str = "digits"
    root: str | None = None
    train_split: str = "train"
    val_split: str | None = None
    val_share: Share = 0.2
    class_map: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    multi_label: bool = False
    in_chans: Literal[1, 3] | None = None
    image_size: Count | None = None
    test_size: Count | None = None
    crop_pct: Positive | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    batch_size: Count = 64
    shift: CountOrZero = 0
    aug_repeats: CountOrZero = 0
    max_per_class: Count | None = None
    balance: Share = 0.0
    weight_key: str | None = None
    cache: bool = False
    workers: CountOrZero = 0
    stall_seconds: Positive = 600.0
    max_broken: Share = 0.01


@dataclasses.dataclass
class Mix:
    """What happens to batches on the device; names and defaults are those of timm's train script.

    Attributes:
        mixup: alpha of the beta distribution that mixup's shares are drawn from; 0 for no mixup (1710.09412).
        cutmix: likewise of cutmix (1905.04899).
        cutmix_minmax: smallest and largest side of cutmix's rectangles, as shares of the image, instead of `cutmix`.
        mixup_prob: probability of mixing at all.
        mixup_switch_prob: probability of cutmix, where both are on.
        mixup_mode: what is drawn once for the "batch", once for each "pair" of images or once for each "elem".
        mixup_off_epoch: epoch from which on nothing is mixed; 0 for never.
        reprob: probability that parts of an image are erased (1708.04896).
        remode: what stands there instead: "pixel", noise; "rand", one random colour; or "const", the mean colour.
        recount: largest number of parts; their number is random.
    """

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    cutmix_minmax: tuple[ShareAbove0, ShareAbove0] | None = None
    mixup_prob: Share = 1.0
    mixup_switch_prob: Share = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    mixup_off_epoch: CountOrZero = 0
    reprob: Share = 0.0
    remode: Literal["const", "rand", "pixel"] = "pixel"
    recount: Count = 1


@dataclasses.dataclass
class Loss:
    """What is minimised.

    Attributes:
        name: "ce", softmax cross-entropy; "bce", binary cross-entropy of each class; or "asl", the asymmetric loss of
            several labels an image (2009.14119).
        smoothing: share of the targets that is spread evenly over all classes; of several labels, by which each is
            moved towards a half.
        bce_target_thresh: targets above it become 1 and the others 0; None leaves them as they are.
        bce_sum: add the classes up instead of averaging over them.
        pos_weight: of bce and asl, factor on the loss where a label is there: one number, or one for each class.
        asl_gamma_neg: of asl, power of the focus on labels that are not there; the larger, the less easy ones count.
        asl_gamma_pos: likewise on those that are there.
        asl_clip: of asl, probability up to which a label that is not there costs nothing.
        class_weights: factor on the loss of each class, in the order of the classes; empty for 1.
        balance: 1 makes such factors of the sizes of the classes in training, so that small ones count as much as large
            ones (n^-1), 0.5 is between (n^-0.5), 0 none; of all images their mean is 1.
    """

    name: Literal["ce", "bce", "asl"] = "ce"
    smoothing: ShareBelow1 = 0.0
    bce_target_thresh: float | None = None
    bce_sum: bool = False
    pos_weight: tuple[Positive, ...] | None = None
    asl_gamma_neg: NotNegative = 4.0
    asl_gamma_pos: NotNegative = 1.0
    asl_clip: ShareBelow1 = 0.05
    class_weights: tuple[NotNegative, ...] = ()
    balance: Share = 0.0


@dataclasses.dataclass
class Mesh:
    """How devices share the work. Each axis divides the batch; fsdp also divides what a device keeps.

    Attributes:
        data: devices along the axis that replicates parameters; -1 for all that are left.
        fsdp: devices along the axis that shards parameters, optimiser state and moving average.
    """

    data: Annotated[int, Range(-1)] = -1
    fsdp: Count = 1


@dataclasses.dataclass
class Checkpoint:
    """What survives of a run.

    Attributes:
        every_epochs: epochs between checkpoints; fractions are fine.
        keep_last: how many of the newest stay. Better two than one: should the newest be damaged, there is another.
        keep_best: how many of the best stay besides.
        metric: that the best ones are best in, and that a plateau is measured by; map and f1 are of several labels.
    """

    every_epochs: NotNegative = 1.0
    keep_last: Count = 2
    keep_best: CountOrZero = 1
    metric: Literal["top1", "top5", "map", "f1", "loss"] = "top1"


@dataclasses.dataclass
class EarlyStop:
    """When a run ends before its last step.

    Attributes:
        patience: evaluations in a row without an improvement after which it ends; None for never.
        metric: of the test images, that must improve: of "loss" less is better.
        min_delta: a smaller improvement is none.
    """

    patience: Count | None = None
    metric: Literal["top1", "top5", "map", "f1", "loss"] = "top1"
    min_delta: NotNegative = 0.0


@dataclasses.dataclass
class Log:
    """What is written down while it runs.

    Attributes:
        every_steps: steps between lines of metrics.jsonl.
        tensorboard: write TensorBoard's event files to WORKDIR/tensorboard as well.
        wandb: project of Weights & Biases to log to; None for none.
        mlflow: experiment of MLflow, likewise.
        trackio: project of trackio, likewise.
    """

    every_steps: Count = 10
    tensorboard: bool = True
    wandb: str | None = None
    mlflow: str | None = None
    trackio: str | None = None


@dataclasses.dataclass
class Config:
    """One run.

    Attributes:
        seed: of the weights, the order of the images and every random choice of a step.
        epochs: passes over the training images, without those that the schedule adds.
        eval_epochs: passes between evaluations.
        grad_accum_steps: parts that a batch is worked through in, to save memory.
        deterministic: on a GPU, the same bits each time: XLA then adds in a fixed order and tries no algorithms out,
            which is slower. CPUs and TPUs always compute the same bits.
    """

    seed: Seed = 0
    epochs: Count = 30
    eval_epochs: NotNegative = 1.0
    grad_accum_steps: Count = 1
    deterministic: bool = False
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    mix: Mix = dataclasses.field(default_factory=Mix)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    lora: Lora = dataclasses.field(default_factory=Lora)
    distill: Distill = dataclasses.field(default_factory=Distill)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    ema: Ema = dataclasses.field(default_factory=Ema)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    early_stop: EarlyStop = dataclasses.field(default_factory=EarlyStop)
    log: Log = dataclasses.field(default_factory=Log)
