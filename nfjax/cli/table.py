"""The commands of `nfjax`: what they are called, and where they are.

Modules are named, not imported: those of `train` are on a higher floor, and `nfjax --help` should not wait for jax.
"""

from port.__main__ import COMMANDS as WEIGHTS
from port.commands import Command


def _ours(help: str, run: str, options: str, extra: str = "") -> Command:
    return Command(help, f"nfjax.cli.{run}", f"nfjax.cli.{options}", extra=extra)


def _training(help: str, run: str, completes: str, extra: str = "train") -> Command:
    return Command(help, f"train.{run}", completes=f"train.{completes}", extra=extra)


COMMANDS = {
    "list": _ours("the models, with their sizes, costs and published accuracies", "models:listed", "options:models"),
    "info": _ours("everything that is known about a model", "models:info", "options:info"),
    "bench": _ours("how fast a model is on this device", "bench:run", "options:bench"),
    "classify": _ours("the most probable classes of images", "classify:run", "options:classify", "cli"),
    "embed": _ours(
        "pooled features of images, in a file or, of very many, a folder", "embed:run", "options:embed", "cli"
    ),
    "features": _ours("draw feature maps, or attention maps, of an image", "features:run", "options:features", "cli"),
    "explain": _ours("draw where a model looked in images", "explain:run", "options:explain", "cli"),
    "demo": _ours("a page on this machine that classifies a dropped picture", "demo:run", "options:demo", "demo"),
    "similar": _ours("images that are near to another one, or to each other", "similar:run", "options:similar", "cli"),
    "export": _ours("a model as one file that jax runs without flax", "export:run", "export_options:export", "export"),
    "push": _ours("publish a model on the Hugging Face hub", "push:run", "options:push"),
    "train": _training("train a model, or go on with a run", "main:main", "cli.completion:options"),
    "evaluate": _training("accuracy of models on images", "evaluate:main", "evaluation.options:options"),
    "probe": _training("fit a classifier on a model's features", "probe:main", "probing.options:options"),
    "average": _training("average checkpoints of a run into one model", "average:main", "average:options"),
    "to-timm": _training("a run's checkpoint for timm's train.py", "to_timm:main", "to_timm:options"),
    "curves": _training("curves of runs as a picture", "curves:main", "curves:options"),
    "inspect": _training("look through a data set", "data.__main__:inspect", "data.__main__:options"),
    "plan": _training(
        "what a run would need of devices that are not there", "plan.__main__:main", "plan.__main__:options"
    ),
    "verify-training": _training(
        "compare training with timm's", "verify.__main__:main", "verify.__main__:options", "dev"
    ),
    "convert": WEIGHTS["convert"],
    "which": WEIGHTS["which"],
    "verify": WEIGHTS["verify"],
    "doctor": _ours("whether this machine has what nfjax needs", "doctor:run", "options:doctor"),
    "completion": Command(
        "what the shell needs to complete commands",
        "nfjax.cli.completion:run",
        "nfjax.cli.completion:options",
        extra="cli",
    ),
}
