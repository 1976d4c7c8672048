"""The commands of `nfjax`: what they are called, and where they are.

Modules are named, not imported: those of `train` are on a higher floor, and `nfjax --help` should not wait for jax.
"""

from port.commands import Command

COMMANDS = {
    "list": Command(
        "the models, with their sizes, costs and published accuracies",
        "nfjax.cli.models:listed",
        options="nfjax.cli.options:models",
    ),
    "info": Command(
        "everything that is known about a model", "nfjax.cli.models:info", options="nfjax.cli.options:info"
    ),
    "classify": Command(
        "the most probable classes of images",
        "nfjax.cli.classify:run",
        options="nfjax.cli.options:classify",
        extra="cli",
    ),
    "embed": Command(
        "pooled features of images, as npz or parquet",
        "nfjax.cli.embed:run",
        options="nfjax.cli.options:embed",
        extra="cli",
    ),
    "features": Command(
        "draw feature maps, or attention maps, of an image",
        "nfjax.cli.features:run",
        options="nfjax.cli.options:features",
        extra="cli",
    ),
    "export": Command(
        "a model as one file that jax runs without flax",
        "nfjax.cli.export:run",
        options="nfjax.cli.options:export",
        extra="export",
    ),
    "train": Command(
        "train a model, or go on with a run", "train.main:main", completes="train.cli.completion:options", extra="train"
    ),
    "evaluate": Command(
        "accuracy of models on images",
        "train.evaluate:main",
        completes="train.evaluation.options:options",
        extra="train",
    ),
    "average": Command(
        "average checkpoints of a run into one model",
        "train.average:main",
        completes="train.average:options",
        extra="train",
    ),
    "curves": Command(
        "curves of runs as a picture", "train.curves:main", completes="train.curves:options", extra="train"
    ),
    "inspect": Command(
        "look through a data set", "train.data.__main__:inspect", completes="train.data.__main__:options", extra="train"
    ),
    "verify-training": Command(
        "compare training with timm's",
        "train.verify.__main__:main",
        completes="train.verify.__main__:options",
        extra="dev",
    ),
    "convert": Command(
        "weights of timm to Flax parameters, and back", "port.__main__:convert", options="port.__main__:convert_options"
    ),
    "verify": Command(
        "compare models with timm", "port.__main__:verify", options="port.__main__:verify_options", extra="dev"
    ),
    "completion": Command(
        "what the shell needs to complete commands",
        "nfjax.cli.completion:run",
        options="nfjax.cli.completion:options",
        extra="cli",
    ),
}
