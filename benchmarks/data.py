"""Training images a second from JPEG files, beside timm's own loader of uint8 batches on the same files.

    python benchmarks/data.py [--files 2048] [--rounds 5] [--batches 24]

The files are pieces of the photographs that scikit-image and scikit-learn bundle, of about 500 x 375 pixels and
qualities of 88 to 96, as those of ImageNet. The rival is `timm.data.create_loader(..., use_prefetcher=True)` as far as
it runs on the host: its workers decode, transform and collate to uint8; what its prefetcher does on the device is left
out, and so is ours. Both cut out a random part, resize it to 224 pixels by a random filter and flip it, in batches of
64, one pass following the other without a pause; whatever comes is dropped at once.

Two rows, each with its target for the median of the paired ratios:

- both with RandAugment on the host ("rand-m9-mstd0.5-inc1"): 1.15;
- timm's as before, ours without RandAugment, which `train.rand_augment` leaves to the compiled step: 1.35. This is
  what the host alone gains; it presupposes an accelerator with time to spare.

Every measurement is a process of its own, its first batches not counted; all settings take turns, and on each side the
one with the best median counts. Before anything is timed both sides transform files without chance (the largest
centred square, flipped), and nothing is reported unless all pixels are the same. Beside the ratios stands how much of
the work is bare JPEG decoding: processor time of decoding the same files by Pillow, in one process, as a share of all
processor time that a loader took.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from train.config import Augment, Data

RAND = "rand-m9-mstd0.5-inc1"
SIZE, BATCH, WARM = 224, 64, 8
TIMM, NFJAX, PLAIN = "timm", "nfjax", "nfjax, no RandAugment"
WORKERS = {TIMM: (1, 2, 3), NFJAX: (0, 2), PLAIN: (0, 2)}  # 0: threads
TARGETS = {"RandAugment on the host": (NFJAX, 1.15), "RandAugment left to the device": (PLAIN, 1.35)}
VERSIONS = ("timm", "torch", "torchvision", "pillow", "simplejpeg", "numba", "grain", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--child", nargs=3, metavar=("KIND", "WORKERS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, workers, folder = args.child
        print(json.dumps(measure(kind, int(workers), Path(folder), args.batches)))
        return 0
    settings = [(kind, workers) for kind, choices in WORKERS.items() for workers in choices]
    runs: dict[tuple[str, int], list[dict[str, float]]] = {setting: [] for setting in settings}
    decoding = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mean_size = make_files(folder, args.files)
        check_pixels(folder)
        for done in range(args.rounds):
            for kind, workers in settings:
                command = [sys.executable, "-W", "ignore", __file__, "--batches", str(args.batches)]
                command += ["--child", kind, str(workers), str(folder)]
                found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                runs[kind, workers].append(json.loads(found))
            decoding.append(decode_alone(folder))
            print(f"round {done + 1} of {args.rounds}", file=sys.stderr)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},", end=" ")
    print(", ".join(f"{package} {importlib.metadata.version(package)}" for package in VERSIONS))
    print(
        f"{args.files} files of {mean_size / 1024:.0f} KiB, {args.rounds} rounds of {args.batches} batches of {BATCH}; "
        "median [least, most]; work is processor time an image"
    )
    print(f"{'bare decode by Pillow':<34}{'':23}work {spread([1e3 * s for s in decoding], '.2f')} ms")
    for kind, workers in settings:
        rates, work = ([run[key] for run in runs[kind, workers]] for key in ("rate", "cpu"))
        shares = [alone / all_ for alone, all_ in zip(decoding, work, strict=True)]
        name = f"{kind}, {f'{workers} workers' if workers else 'threads'}"
        print(
            f"{name:<34}{spread(rates, '.0f')} images/s, work {spread([1e3 * s for s in work], '.2f')} ms, "
            f"bare decode {spread(shares, '.0%')} of it"
        )
    best = {kind: max(choices, key=lambda n: median(runs[kind, n], "rate")) for kind, choices in WORKERS.items()}
    reached = True
    for title, (kind, target) in TARGETS.items():
        pairs = zip(runs[kind, best[kind]], runs[TIMM, best[TIMM]], strict=True)
        ratios = [ours["rate"] / theirs["rate"] for ours, theirs in pairs]
        print(f"{title:<33} {spread(ratios, '.3f')} times timm's, target {target}")
        reached &= statistics.median(ratios) >= target
    return 0 if reached else 1


def make_files(folder: Path, count: int) -> float:
    """`folder/train/CLASS/*.jpg`, and one file a class in `folder/val`; the mean size of a file in bytes."""
    rng, sizes = np.random.default_rng(0), []
    photos = photographs()
    for number in range(count):
        name, photo = photos[number % len(photos)]
        width, height = (500, 375) if rng.random() < 0.7 else (375, 500)
        shrink = rng.uniform(0.5, 1.0) * min(photo.width / width, photo.height / height)
        left, top = rng.uniform(0, photo.width - shrink * width), rng.uniform(0, photo.height - shrink * height)
        box = (left, top, left + shrink * width, top + shrink * height)
        piece = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        for split in ("train", "val")[: 2 if number < len(photos) else 1]:
            file = folder / split / name / f"{number:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            piece.save(file, quality=int(rng.integers(88, 97)))
        sizes.append(file.stat().st_size)
    return statistics.mean(sizes)


def photographs() -> list[tuple[str, Image.Image]]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    named = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "retina", "rocket")}
    named |= dict(zip(("palace", "flower"), load_sample_images().images, strict=True))
    named["hubble"] = data.hubble_deep_field()
    return [(name, Image.fromarray(pixels)) for name, pixels in named.items()]


def ours(folder: Path, workers: int, augment: Augment) -> Any:
    """Our data set and its config."""
    from nfjax.data_config import DataConfig
    from train import data

    config = Data(name="folder", root=str(folder), image_size=SIZE, batch_size=BATCH, workers=workers)
    return data.load(config, DataConfig(), augment), config


def timms(folder: Path, workers: int, **options: Any) -> Any:
    """timm's loader, without the part that runs on the device."""
    import torch

    from nfjax.parity import oracle

    timm = oracle.timm()
    return timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder / "train"), is_training=True),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        num_workers=workers,
        use_multi_epochs_loader=True,  # or every pass would begin with a pause
        device=torch.device("cpu"),
        **options,
    ).loader


def check_pixels(folder: Path) -> None:
    """Refuse to compare loaders that do not make the same images."""
    still: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 1.0, "interpolation": "bicubic"}
    dataset, _ = ours(folder, 0, Augment(**still, color_jitter=()))
    theirs = timms(folder, 0, **still, color_jitter=0.0).dataset
    places = {
        os.path.relpath(theirs.filename(index, absolute=True), folder / "train"): index for index in range(len(theirs))
    }
    for index in range(0, len(dataset.train), 4):
        place = places[dataset.train.source.key(index)]
        pixels = dataset.train.read(index, np.random.default_rng(0))["image"]
        if not np.array_equal(pixels, theirs[place][0].permute(1, 2, 0).numpy()):
            raise SystemExit(f"{dataset.train.source.key(index)}: pixels differ from timm's; nothing is measured.")


def measure(kind: str, workers: int, folder: Path, count: int) -> dict[str, float]:
    """Images and seconds of processor time an image, of this process and its workers, once under way."""
    batches = stream(kind, workers, folder)
    for _ in range(WARM):
        next(batches)
    start, work = time.perf_counter(), processor_seconds()
    for _ in range(count):
        next(batches)
    seconds, work = time.perf_counter() - start, processor_seconds() - work
    return {"rate": count * BATCH / seconds, "cpu": work / (count * BATCH)}


def stream(kind: str, workers: int, folder: Path) -> Iterator[Any]:
    """Batches without end."""
    if kind == TIMM:
        loader = timms(folder, workers, interpolation="random", auto_augment=RAND)
        while True:
            yield from loader
    from train import data

    augment = Augment(auto_augment=RAND, on_device=kind != NFJAX)
    dataset, config = ours(folder, workers, augment)
    yield from data.train_batches(dataset.train, config, seed=0)


def processor_seconds() -> float:
    """What this process and its children have used so far."""
    process = psutil.Process()
    times = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    return sum(found.user + found.system for found in times)


def decode_alone(folder: Path) -> float:
    """Seconds of processor time an image, for decoding every file once."""
    files = sorted((folder / "train").rglob("*.jpg"))
    start = time.process_time()
    for file in files:
        with Image.open(file) as image:
            image.load()
    return (time.process_time() - start) / len(files)


def median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


if __name__ == "__main__":
    raise SystemExit(main())
