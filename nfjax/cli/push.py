"""`nfjax push`: a model to the Hugging Face hub."""

import argparse
import csv
from pathlib import Path

import nfjax
from nfjax.weights.card import About, Score


def run(args: argparse.Namespace) -> int:
    about = None
    if args.evaluation is not None or args.base_model is not None:
        scores = [] if args.evaluation is None else _scores(args.evaluation / "results.csv", args.model)
        about = About(base_model=args.base_model, scores=scores)
    options = {"private": args.private, "revision": args.revision, "commit_message": args.message, "about": about}
    print(nfjax.push_to_hub(args.model, args.repo, **options))
    return 0


def _scores(path: Path, model: str) -> list[Score]:
    """What `nfjax evaluate` found of a model, the newest row of it."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [row for row in rows if row.get("model") == model]
    if not found:
        known = ", ".join(dict.fromkeys(str(row.get("model")) for row in rows)) or "none"
        raise ValueError(f"{path} has no results of {model}, but of {known}; evaluate it under the same name.")
    images = f"{found[-1]['count']} images, {found[-1]['img_size']} px"
    return [Score(f"top-{k}", float(found[-1][f"top{k}"]), images) for k in (1, 5)]
