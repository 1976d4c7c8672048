"""`python -m nfjax embed`: pooled features of images, as npz or parquet."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from nfjax.cli.common import Images, add_image_options, find_images, load_model, write_parquet

EXAMPLE = """example:
  python -m nfjax embed photos/ --model vit_base_patch14_reg4_dinov2 --img-size 224 -o photos.npz
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "embed",
        help="pooled features of images, as npz or parquet",
        description="The pooled features that enter a model's classifier, float32: arrays `files` (N,) and "
        "`embeddings` (N, features) of an npz, or columns of the same names of a parquet file.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_image_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, help="FILE.npz or FILE.parquet")
    parser.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.output.suffix not in (".npz", ".parquet"):
        raise ValueError(f"{args.output}: expected a file name ending in .npz or .parquet.")
    files = find_images(args.images)
    model, transform = load_model(args, num_classes=0)
    images = Images(files, transform, args.batch_size)
    results = list(images.run(model))
    names = [str(file) for file, _ in results]
    embeddings = np.stack([e for _, e in results]) if results else np.zeros((0, model.head_hidden_size), np.float32)
    if args.normalize:
        embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if args.output.suffix == ".npz":
        np.savez(args.output, files=np.array(names), embeddings=embeddings)
    else:
        write_parquet({"files": names, "embeddings": embeddings}, args.output)
    print(f"{args.output}: {embeddings.shape[0]} embeddings of {embeddings.shape[1]} features from {model.name}")
    return images.report()
