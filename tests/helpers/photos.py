"""A folder of real photographs to learn from: pieces of those that scikit-image and scikit-learn bundle."""

from pathlib import Path

import numpy as np
from PIL import Image

# Whose left and right look alike, so that who has learnt the one knows the other.
ALIKE = ("brick", "coins", "flower", "gravel", "hubble", "palace", "rocket", "tissue")
TRAIN, VAL = (0.0, 0.7), (0.7, 1.0)  # shares of the width, so that no pixel is in both


def photographs() -> dict[str, np.ndarray]:
    """Photographs by name: uint8 arrays (height, width[, 3])."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    return {
        "astronaut": data.astronaut(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "flower": load_sample_image("flower.jpg"),
        "hubble": data.hubble_deep_field(),
        "palace": load_sample_image("china.jpg"),
        "retina": data.retina(),
        "rocket": data.rocket(),
        "brick": data.brick(),
        "coins": data.coins(),
        "gravel": data.gravel(),
        "tissue": data.immunohistochemistry(),
    }


def make_folder(root: Path, *, train: int, val: int, size: int = 96, classes: int | tuple[str, ...] = 8) -> Path:
    """`root/train/CLASS/*.jpg` and `root/val/CLASS/*.jpg`, pieces of about `size` pixels, from disjoint regions.

    Args:
        root: folder to make.
        train: pieces of each class for training, from the left of its photograph.
        val: pieces of each class for testing, from the right.
        size: sides are between this and twice this.
        classes: which photographs to use, or how many.
    """
    rng, photos = np.random.default_rng(0), photographs()
    for name in classes if isinstance(classes, tuple) else tuple(photos)[:classes]:
        photo = photos[name]
        for split, (left, right), count in (("train", TRAIN, train), ("val", VAL, val)):
            region = photo[:, int(left * photo.shape[1]) : int(right * photo.shape[1])]
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = (
                    int(rng.integers(min(size, side), min(2 * size, side) + 1)) for side in region.shape[:2]
                )
                top = int(rng.integers(region.shape[0] - height + 1))
                start = int(rng.integers(region.shape[1] - width + 1))
                piece = np.ascontiguousarray(region[top : top + height, start : start + width])
                Image.fromarray(piece).save(folder / f"{number:04}.jpg", quality=90)
    return root


def make_pairs(root: Path, *, train: int, val: int, size: int = 64) -> Path:
    """Pieces of two of the photographs `ALIKE` side by side, `size` pixels high and wide, and `labels.csv`: of both.

    Args:
        root: folder to make.
        train: pairs for training, from the left of the photographs.
        val: pairs for testing, from the right.
        size: of the pictures; a piece has once to twice that side in its photograph.
    """
    rng, photos = np.random.default_rng(0), photographs()
    root.mkdir(parents=True)
    rows = ["path,labels,split"]
    for split, (left, right), count in (("train", TRAIN, train), ("val", VAL, val)):
        for number in range(count):
            names, picture = rng.choice(ALIKE, 2), Image.new("RGB", (size, size))
            for place, name in enumerate(names):
                photo = photos[name]
                region = photo[:, int(left * photo.shape[1]) : int(right * photo.shape[1])]
                height, width = (int(rng.integers(min(size, s), min(2 * size, s) + 1)) for s in region.shape[:2])
                top, start = (int(rng.integers(s - n + 1)) for s, n in zip(region.shape, (height, width), strict=False))
                piece = Image.fromarray(np.ascontiguousarray(region[top : top + height, start : start + width]))
                picture.paste(piece.convert("RGB").resize((size // 2, size)), (place * size // 2, 0))
            picture.save(root / f"{split}{number:04}.png")
            rows.append(f"{split}{number:04}.png,{'|'.join(sorted(set(names.tolist())))},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root
