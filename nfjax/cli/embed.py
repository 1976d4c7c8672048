"""`nfjax embed`: pooled features of images, as npz, parquet or csv."""

import argparse

import numpy as np

from nfjax.cli.common import Images, find_images, load_model
from nfjax.cli.output import rows_to, write_parquet
from port.atomic import replaced, replacing, require_writable
from port.text import counted, encodable


def run(args: argparse.Namespace) -> int:
    require_writable(args.output, (".npz", ".parquet", ".csv"))
    files = find_images(args.images)
    model, transform = load_model(args, num_classes=0)
    images = Images(files, transform, args.batch_size, exif=args.exif)
    results = list(images.run(model))
    names = [str(file) for file, _ in results]
    embeddings = np.stack([e for _, e in results]) if results else np.zeros((0, model.head_hidden_size), np.float32)
    if args.normalize:
        embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
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
