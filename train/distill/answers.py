"""What a teacher says of each training image, asked once and kept in WORKDIR/teacher, a row of an array an image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from port.atomic import replacing
from port.text import counted
from train.config import Config
from train.data import Dataset, test_batches
from train.data.sources.base import digest
from train.device.normalize import Normalize
from train.distill.teacher import Teacher
from train.machine.mesh import batch_sharding, put_batch, replicated
from train.machine.processes import from_first_process


def require_unchanged(config: Config) -> None:
    """Refuse to keep answers of images that are changed at random; a ValueError that names the fields."""
    mix = config.mix
    changes = {
        "augment.no_aug=false": not config.augment.no_aug,
        f"data.shift={config.data.shift}": config.data.shift > 0,
        "mix.mixup": mix.mixup > 0,
        "mix.cutmix": mix.cutmix > 0 or mix.cutmix_minmax is not None,
        "mix.reprob": mix.reprob > 0,
    }
    if found := [name for name, changed in changes.items() if changed]:
        raise ValueError(
            f"distill.cache=true is for images that are not changed at random, and here is {', '.join(found)}; set "
            "augment.no_aug=true and nothing of mix, or leave distill.cache out."
        )


def kept_answers(
    config: Config,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    normalize: Normalize,
    teacher: Teacher,
    workdir: Path,
    say: Callable[[str], Any],
) -> np.ndarray:
    """What the teacher says of each training image, `(images, teacher.width)`, of `answer_dtype`.

    All processes call this; answers that are not there yet are asked for now, of all images.

    Raises:
        nfjax.images.ImageError: images cannot be read.
    """
    source, split = dataset.train.source, dataset.train
    name = digest([teacher.identity, source.fingerprint(), repr(split.transform), repr(normalize)])
    file = workdir / "teacher" / f"{name}.npy"
    if from_first_process([int(file.is_file())])[0]:
        said = np.load(file, mmap_mode="r")
    else:
        say(f"asking the teacher about {counted(len(split), 'image')}, once: {file}")
        said = _asked(config, dataset, mesh, normalize, teacher)
        if jax.process_index() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial, partial.open("wb") as stream:
                np.save(stream, said)
    if said.shape != (len(split), teacher.width):
        raise ValueError(f"{file} has the shape {said.shape}, expected {(len(split), teacher.width)}; remove it.")
    return said


def _asked(
    config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, normalize: Normalize, teacher: Teacher
) -> np.ndarray:
    whole, size = replicated(mesh), config.data.batch_size
    ask = jax.jit(
        lambda params, images: teacher(params, normalize(images)),
        in_shardings=(whole, batch_sharding(mesh)),
        out_shardings=whole,
    )
    params = jax.device_put(teacher.params, whole)
    parts = [
        np.asarray(ask(params, put_batch(mesh, {"image": batch["image"]})["image"]))
        for batch in test_batches(dataset.train, config.data, size)
    ]
    return np.concatenate(parts)[: len(dataset.train)]


def answer_dtype(teacher: Teacher) -> Any:
    """Of what a teacher says."""
    return jnp.promote_types(teacher.dtype, jnp.float32)
