"""`nfjax embed`: pooled features of images, as npz, parquet or csv, or as parts of parquet in a folder."""

import argparse
import functools
from pathlib import Path

import numpy as np

from nfjax.cli.common import Images, find_images, load_model
from nfjax.cli.many import in_parts, require_file_options
from nfjax.cli.output import rows_to, write_parquet
from port.atomic import replaced, replacing, require_writable
from port.paths import user_path
from port.text import counted, encodable

FILES = (".npz", ".parquet", ".csv")
OTHERS = (".txt", ".json", ".jsonl", ".tsv", ".npy", ".zip", ".pt", ".pkl", ".h5", ".safetensors")  # surely no folders


def run(args: argparse.Namespace) -> int:
    if is_folder(args.output):
        return in_parts(args, "embed", "embedding", lambda _: functools.partial(_write, args.normalize), num_classes=0)
    require_file_options(args)
    args.output = user_path(args.output)
    require_writable(args.output, FILES)
    files = find_images(args.images)
    model, transform = load_model(args, num_classes=0)
    images = Images(files, transform, args.batch_size, exif=args.exif)
    results = list(images.run(model))
    names = [str(file) for file, _ in results]
    embeddings = np.stack([e for _, e in results]) if results else np.zeros((0, model.head_hidden_size), np.float32)
    if args.normalize:
        embeddings = _normalized(embeddings)
    again = replaced(args.output)
    ending = args.output.suffix.lower()
    if ending == ".npz":
        with replacing(args.output) as partial:
            np.savez(partial, files=np.array(list(map(encodable, names))), embeddings=embeddings)
    elif ending == ".csv":
        columns = [f"e{i}" for i in range(embeddings.shape[1])]
        with rows_to(args.output, "csv", ["file", *columns]) as write:
            for name, row in zip(names, embeddings, strict=True):
                write({"file": name} | dict(zip(columns, row, strict=True)))
    else:
        write_parquet({"files": names, "embeddings": embeddings}, args.output)
    count, features = (
        counted(size, noun) for size, noun in zip(embeddings.shape, ("embedding", "feature"), strict=True)
    )
    print(f"{args.output}{again}: {count} of {features} from {model.name}")
    return images.report()


def is_folder(output: Path | str) -> bool:
    """Whether the output is a folder: there is one, or the name does not end as that of a file."""
    there = isinstance(output, Path) and output.is_dir()
    return there or Path(output).suffix.lower() not in (*FILES, *OTHERS)


def _normalized(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _write(normalize: bool, names: list[str], embeddings: np.ndarray, file: Path) -> None:
    """A part of a folder."""
    columns = {"files": names, "embeddings": _normalized(embeddings) if normalize else embeddings}
    write_parquet(columns, file, text=["files"])
