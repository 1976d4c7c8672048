"""Training images a second from JPEG files, beside timm's own loader of uint8 batches on the same files.

The files are pieces of the photographs that scikit-image and scikit-learn bundle, of about 500 x 375 pixels and
qualities of 88 to 96, as those of ImageNet. The rival is `timm.data.create_loader(..., use_prefetcher=True)` as far as
it runs on the host: its workers decode, transform and collate to uint8; what its prefetcher does on the device is left
out, and so is ours. Both cut out a random part, resize it to 224 pixels by a random filter and flip it, in batches of
64, one pass following the other without a pause; whatever comes is dropped at once.

Two rows, each with its target for the median of the paired ratios:

- both with RandAugment on the host ("rand-m9-mstd0.5-inc1"): 1.15;
- timm's as before, ours without RandAugment, which `train.device.rand_augment` leaves to the compiled step: 1.35. This
  is what the host alone gains; it presupposes an accelerator with time to spare.

And the second row's loader from tar shards of the same files (`data.name=wds`), beside its rate from the files.

Every measurement is a process of its own, its first batches not counted; all settings take turns, and on each side the
one with the best median counts. Before anything is timed both sides transform files without chance (the largest
centred square, flipped), and nothing is reported unless all pixels are the same. Beside the ratios stands how much of
the work is bare JPEG decoding: processor time of decoding the same files by Pillow, in one process, as a share of all
processor time that a loader took.
"""

import argparse
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import measure, report
from train.config import Augment, Data

RAND = "rand-m9-mstd0.5-inc1"
SIZE, BATCH, WARM = 224, 64, 8
TIMM, NFJAX, PLAIN, SHARDS = "timm", "nfjax", "nfjax, no RandAugment", "nfjax, tar shards, no RandAugment"
WORKERS = {TIMM: (1, 2, 3), NFJAX: (0, 2), PLAIN: (0, 2), SHARDS: (0, 2)}  # 0: threads
TARGETS = {"RandAugment on the host": (NFJAX, 1.15), "RandAugment left to the device": (PLAIN, 1.35)}
PACKAGES = ("torchvision", "pillow", "simplejpeg", "numba", "grain")  # besides those of every report
Setting = tuple[str, int]
Runs = dict[Setting, list[dict[str, float]]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    settings = [(kind, workers) for kind, choices in WORKERS.items() for workers in choices]
    runs: Runs = {setting: [] for setting in settings}
    decoding = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mean_size = make_files(folder, args.files)
        make_shards(folder)
        try:
            check_pixels(folder)
        except PixelsDiffer as error:
            print(error, file=sys.stderr)
            return 1
        for done in range(args.rounds):
            for kind, workers in settings:
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data"]
                command += [kind, str(workers), str(folder), str(args.batches)]
                found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                runs[kind, workers].append(json.loads(found))
            decoding.append(decode_alone(folder))
            print(f"round {done + 1} of {args.rounds}", file=sys.stderr)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    print(f"{report.machine()}, {os.cpu_count()} cores, {', '.join(' '.join(pair) for pair in versions.items())}")
    print(
        f"{args.files} files of {mean_size / 1024:.0f} KiB, {args.rounds} rounds of {args.batches} batches of {BATCH}; "
        "median [least, most]; work is processor time an image"
    )
    print(f"{'bare decode by Pillow':<34}{'':23}work {measure.spread(decoding, 1e3, '.2f')} ms")
    for setting in settings:
        rates, work = ([run[key] for run in runs[setting]] for key in ("rate", "cpu"))
        shares = measure.ratio(decoding, work)
        print(
            f"{title(setting):<34}{measure.spread(rates, form='.0f')} images/s, "
            f"work {measure.spread(work, 1e3, '.2f')} ms, bare decode {measure.spread(shares, form='.0%')} of it"
        )
    shards = measure.ratio(*([run["rate"] for run in runs[kind, 0]] for kind in (PLAIN, SHARDS)))
    print(f"{'tar shards instead of files':<33} {measure.spread(shards, form='.3f')} times as fast, in threads")
    rows = [row(what, kind, target, runs) for what, (kind, target) in TARGETS.items()]
    for compared in rows:
        ratios = measure.spread(compared["times_timm"], form=".3f")
        print(f"{compared['title']:<33} {ratios} times timm's, target {compared['target']}")
    header = {
        "cores": os.cpu_count(),
        "packages": versions,
        "rounds": args.rounds,
        "files": args.files,
        "file_bytes": mean_size,
        "batch": BATCH,
        "decode_seconds": decoding,
    }
    path = report.write("data", header, rows, args.out, measured="time of an image")
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0 if all(statistics.median(found["times_timm"]) >= found["target"] for found in rows) else 1


def title(setting: Setting) -> str:
    kind, workers = setting
    return f"{kind}, {f'{workers} workers' if workers else 'threads'}"


def row(what: str, kind: str, target: float, runs: Runs) -> dict[str, Any]:
    """timm's settings and one kind of ours: images/s, processor time, and time of an image relative to timm's best."""
    rates = {s: [run["rate"] for run in found] for s, found in runs.items() if s[0] in (TIMM, kind)}
    best = {
        side: max((s for s in rates if s[0] == side), key=lambda s: statistics.median(rates[s]))
        for side in (TIMM, kind)
    }
    return {
        "title": what,
        "timm_best": title(best[TIMM]),
        "ours_best": title(best[kind]),
        "target": target,
        "times_timm": measure.ratio(rates[best[kind]], rates[best[TIMM]]),
        "images_per_second": {title(s): values for s, values in rates.items()},
        "processor_seconds": {title(s): [run["cpu"] for run in runs[s]] for s in rates},
        "ratios": {title(s): measure.ratio(rates[best[TIMM]], values) for s, values in rates.items()},
    }


class PixelsDiffer(Exception):
    """What was to be timed does not make the same images."""


def make_files(folder: Path, count: int, sides: tuple[int, int] = (500, 375)) -> float:
    """`folder/train/CLASS/*.jpg`, and one file a class in `folder/val`; the mean size of a file in bytes."""
    rng, sizes = np.random.default_rng(0), []
    photos = photographs()
    for number in range(count):
        name, photo = photos[number % len(photos)]
        width, height = sides if rng.random() < 0.7 else sides[::-1]
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


def make_shards(folder: Path, size: int = 512) -> None:
    """The files of `folder/train` in tar shards, `folder/shards/train-0000.tar`."""
    files = sorted((folder / "train").rglob("*.jpg"))
    (folder / "shards").mkdir()
    for number, start in enumerate(range(0, len(files), size)):
        with tarfile.open(folder / "shards" / f"train-{number:04}.tar", "w") as shard:
            for file in files[start : start + size]:
                label = tarfile.TarInfo(f"{file.stem}.txt")
                label.size = len(file.parent.name)
                shard.add(file, file.name)
                shard.addfile(label, io.BytesIO(file.parent.name.encode()))
    # For testing there must be something.
    (folder / "shards" / "val-0000.tar").write_bytes((folder / "shards" / "train-0000.tar").read_bytes())


def photographs() -> list[tuple[str, Image.Image]]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    named = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "retina", "rocket")}
    named |= dict(zip(("palace", "flower"), load_sample_images().images, strict=True))
    named["hubble"] = data.hubble_deep_field()
    return [(name, Image.fromarray(pixels)) for name, pixels in named.items()]


def ours(folder: Path, workers: int, augment: Augment, name: str = "folder") -> Any:
    """Our data set and its config."""
    from nfjax.models.data_config import DataConfig
    from train import data

    config = Data(name=name, root=str(folder), image_size=SIZE, batch_size=BATCH, workers=workers)
    return data.load_dataset(config, DataConfig(), augment), config


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
    """PixelsDiffer if the loaders do not make the same images."""
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
            raise PixelsDiffer(f"{dataset.train.source.key(index)}: pixels differ from timm's; nothing is measured.")


def rate(kind: str, workers: int, folder: Path, count: int) -> dict[str, float]:
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
    place, name = (folder / "shards", "wds") if kind == SHARDS else (folder, "folder")
    dataset, config = ours(place, workers, augment, name)
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


if __name__ == "__main__":
    _kind, _workers, _folder, _batches = sys.argv[1:]
    print(json.dumps(rate(_kind, int(_workers), Path(_folder), int(_batches))))
