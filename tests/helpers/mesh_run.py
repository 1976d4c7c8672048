"""Twenty steps of a run on a mesh that the command line describes; tests/train/machine/test_mesh.py starts it."""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

from tests.helpers.shallow import shallow

SHALLOW = {"test_vit2": {"depth": 2}, "test_vit3": {"depth": 2}}  # whose blocks are all alike


def config(name: str, fsdp: int, parts: int):
    from train import config as c

    return c.Config(
        seed=1,
        epochs=1,
        grad_accum_steps=parts,
        model=c.Model(name=name, drop_rate=0.2, drop_path_rate=0.2, dtype="float64"),
        data=c.Data(batch_size=16, image_size=32, shift=1),
        augment=c.Augment(auto_augment="rand-m9-mstd0.5-inc1", on_device=True),
        mix=c.Mix(mixup=0.8, cutmix=1.0, mixup_mode="pair", reprob=0.5),
        optim=c.Optim(lr=0.05, clip_mode="agc", clip_grad=0.015, weight_decay=1e-2, lookahead=0.5),
        schedule=c.Schedule(warmup_epochs=0.1),
        ema=c.Ema(decay=0.9),
        mesh=c.Mesh(fsdp=fsdp),
    )


def taught(config, name):
    """The same with several labels an image, adapters, and a teacher; of images that are drawn here."""
    import nfjax
    from train import config as c
    from train import data
    from train.experiment import build

    rng, classes = np.random.default_rng(3), tuple("abcdefgh")
    images = rng.integers(0, 256, (64, 32, 32, 3), np.uint8)
    source = data.ArraySource(images, rng.choice([-1, 0, 1], (64, len(classes))), classes)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, multi_label=True),
        loss=c.Loss("asl"),
        lora=c.Lora(4),
        distill=c.Distill(kind="features", weight=0.5),
        checkpoint=c.Checkpoint(metric="map"),
    )
    dataset = data.load_dataset(config.data, nfjax.data_config(name), config.augment, images=(source, source))
    teacher = nfjax.load("test_vit3", weights=None, num_classes=8, img_size=16, dtype="float64", seed=5)
    return build(config, dataset=dataset, teacher=teacher)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="test_nfnet")
    parser.add_argument("--devices", type=int, default=1, help="of this process")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--taught", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--coordinator")
    parser.add_argument("--process_id", type=int)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", args.devices)
    from train.machine.processes import initialize

    initialize(coordinator=args.coordinator, process_id=args.process_id, num_processes=args.coordinator and 2)
    from train import data
    from train.experiment import build
    from train.machine.mesh import bytes_per_device, put_batch, replicated
    from train.step import make_train_step

    jax.config.update("jax_transfer_guard", "disallow")
    asked = config(args.model, args.fsdp, args.parts)
    with shallow(SHALLOW):
        experiment = taught(asked, args.model) if args.taught else build(asked)
    # No parameter stays at 0 or 1, where it could hide a mistake.
    random = np.random.default_rng(0)
    params = {k: v + 0.1 * random.standard_normal(v.shape) for k, v in jax.device_get(experiment.params).items()}
    state = dataclasses.replace(experiment, params=params).init()
    batches = data.train_batches(experiment.dataset.train, experiment.config.data, experiment.config.seed, 0)
    step, losses = make_train_step(experiment), []
    for _ in range(args.steps):
        batch = next(batches)
        batch.pop("index")
        state, metrics = step(state, put_batch(experiment.mesh, batch))
        losses.append(float(jax.device_get(metrics["loss"])))
    kept = bytes_per_device(state)
    state = jax.jit(lambda state: state, out_shardings=replicated(experiment.mesh))(state)
    arrays = {f"params/{k}": v for k, v in state.params.items()} | {f"ema/{k}": v for k, v in state.ema.items()}
    if jax.process_index() == 0:
        facts = {"losses": losses, "bytes": kept, "devices": jax.device_count(), "processes": jax.process_count()}
        np.savez(args.out, **jax.device_get(arrays), **facts)


if __name__ == "__main__":
    main()
