"""`nfjax list` and `nfjax info`: what is known about the models, without building one."""

import argparse
import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from nfjax.cli.output import print_tables, table_of
from nfjax.models.data_config import DataConfig
from nfjax.models.registry import MODELS, find, list_models
from nfjax.profile import Layer, profile
from nfjax.results import Counts, counts, published, sizes
from nfjax.weights.names import resolve
from port.commands import one_model


def listed(args: argparse.Namespace) -> int:
    names = list_models(args.pattern, pretrained=args.pretrained)
    if not names:
        if inside := list_models(f"{args.pattern}*", pretrained=args.pretrained):
            raise ValueError(f"no model is called {args.pattern}; '{args.pattern}*' is {len(inside)} of them.")
        find(args.pattern)  # an unknown name has a suggestion; a known one has no published weights
        raise ValueError(f"no weights were published for {args.pattern}; leave out --pretrained.")
    models = [_described(data, counts(data)) for data in (find(name)[1] for name in names)]
    if args.json:
        print(json.dumps(models, indent=2))
        return 0
    words = ["name", "hub id" if args.pretrained else "weights", "licence"]
    table = table_of(words, ["pixels", "params M", "GMACs", "act. M", "top-1 %", "top-5 %"])
    for name, model in zip(names, models, strict=True):
        costs, results = model["counts"], {row["img_size"]: row for row in model["results"]}
        measured = [results[row["img_size"][0]] for row in costs if row["img_size"][0] in results]
        table.add_row(
            name,
            model["hf_hub_id"] if args.pretrained else _tags(model["tags"]),
            model["license"],
            " / ".join(_by(dict.fromkeys(row["img_size"])) for row in costs),  # one number for squares
            f"{costs[0]['params'] / 1e6:.2f}",
            " / ".join(f"{row['macs'] / 1e9:.2f}" for row in costs),
            " / ".join(f"{row['activations'] / 1e6:.2f}" for row in costs),
            " / ".join(f"{row['top1']:.2f}" for row in measured),
            " / ".join(f"{row['top5']:.2f}" for row in measured),
        )
    print_tables(table)
    return 0


def info(args: argparse.Namespace) -> int:
    source = resolve(one_model(args))
    profiles = [profile(source, size) for size in sizes(source.data)]
    model = _described(source.data, [Counts(p.img_size, p.params, p.macs, p.activations) for p in profiles])
    layers = profiles[0].layers if args.layers else ()
    if args.json:
        rows = [dataclasses.asdict(layer) | {"param_count": layer.param_count} for layer in layers]
        print(json.dumps(model | ({"layers": rows} if args.layers else {}), indent=2))
        return 0
    facts = table_of(["", ""], [], show_header=False)
    for key, value in model.items():
        if key not in ("counts", "results"):
            facts.add_row(key, " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    costs = table_of([], ["pixels", "params M", "GMACs", "act. M"], title="one image")
    for row in profiles:
        numbers = row.params / 1e6, row.macs / 1e9, row.activations / 1e6
        costs.add_row(_by(row.img_size), *(f"{number:.2f}" for number in numbers))
    results = table_of([], list(model["results"][0]) if model["results"] else [], title="published by timm, in percent")
    for row in model["results"]:
        results.add_row(*map(str, row.values()))
    print_tables(facts, costs, *([results] if model["results"] else []), *([_layer_table(layers)] if layers else []))
    return 0


def _described(data: DataConfig, counted: Iterable[Counts]) -> dict[str, Any]:
    """What is known about a model, as JSON has it."""
    all_data = MODELS[data.architecture].data
    known = dataclasses.asdict(data)
    del known["label_names"]
    if known["problem_type"] is None:
        del known["problem_type"]
    return {
        "name": data.name,
        "tags": [other.tag for other in all_data if other.hf_hub_id],
        **known,
        "counts": [dataclasses.asdict(row) for row in counted],
        # Results are of registered weights; a folder's or another repository's are other weights.
        "results": [dataclasses.asdict(row) for row in published(data.name)] if data in all_data else [],
    }


def _layer_table(layers: Sequence[Layer]) -> Any:
    table = table_of(["layer", "kind", "parameters", "output"], ["params", "MACs", "activations"], title="layers")
    for layer in layers:
        shapes = " ".join(f"{name} {_by(shape)}" for name, shape in layer.params.items())
        output = "" if layer.output_shape is None else _by(layer.output_shape)
        numbers = layer.param_count, layer.macs, layer.activations
        table.add_row(layer.path or "(model)", layer.kind, shapes, output, *(f"{number:,}" for number in numbers))
    return table


def _tags(tags: Sequence[str]) -> str:
    """The default tag, and how many others there are."""
    return " ".join([*tags[:1], *([f"+{len(tags) - 1}"] if len(tags) > 1 else [])])


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
