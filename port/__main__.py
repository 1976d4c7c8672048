"""Weights between timm and JAX, from the command line. `nfjax convert` and `nfjax verify` are the same.

    python -m port convert model.safetensors flax.safetensors              timm names -> Flax paths
    python -m port convert flax.safetensors model.safetensors --to timm    Flax paths -> timm names
    python -m port convert checkpoint.pth.tar FOLDER --model nfnet_l0      a folder that timm and nfjax load
    python -m port inspect checkpoint.pth.tar                              what a file holds, and which model fits
    python -m port verify eca_nfnet_l0 --x64                               against timm itself, stage by stage

An entry point stands above the floors: it may import the models, which the package `port` itself may not.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from port.atomic import replaced
from port.commands import Command, Parser, dispatch, pixels, weights
from port.paths import no_weights, user_path
from port.text import counted, plural

if TYPE_CHECKING:
    from port.unwrap import State


def _row(help: str, name: str, extra: str = "") -> Command:
    return Command(help, f"port.__main__:{name}", f"port.__main__:{name}_options", extra=extra)


COMMANDS = {
    "convert": _row("weights of timm to Flax parameters, and back", "convert"),
    "which": _row("which model a file of weights fits", "which"),
    "inspect": _row("what a file of weights holds, and which model it fits", "inspect"),
    "export": _row("the older name of convert --to timm", "export"),
    "verify": _row("compare models with timm", "verify", "dev"),
}


def main(argv: Sequence[str] | None = None, prog: str = "python -m port") -> int:
    return dispatch(COMMANDS, sys.argv[1:] if argv is None else argv, prog, about=str(__doc__).partition("\n\nAn")[0])


def convert_options(parser: Parser) -> None:
    parser.description = (
        "Weights in another form. Any file or folder of weights is read: safetensors, sharded ones, pickles, training "
        "checkpoints; by timm's names or as Flax parameters. With --to flax they become a safetensors file of Flax "
        "parameters, with --to timm a safetensors file with timm's names or, given --model, a folder that timm and "
        "nfjax load."
    )
    parser.epilog = """examples:
  %(prog)s hf-hub:timm/nfnet_l0.ra2_in1k flax.safetensors
  %(prog)s flax.safetensors timm.safetensors --to timm
  %(prog)s checkpoint.pth.tar my_nfnet --model nfnet_l0"""
    _source_and_dest(parser)
    default = "default: flax for a file that ends in .safetensors, timm for a folder"
    parser.add_argument("--to", choices=("flax", "timm"), help=default)


def export_options(parser: Parser) -> None:
    parser.description = (
        "Any weights to timm's names, or to a folder that timm loads: what `convert --to timm` does. `nfjax export` "
        "writes another file, for serving."
    )
    parser.epilog = "example:\n  %(prog)s checkpoint.pth.tar my_nfnet --model nfnet_l0"
    _source_and_dest(parser)


def _source_and_dest(parser: Parser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="weights file or folder, or hf-hub:organisation/name[@revision]")
    add("dest", type=user_path, metavar="DEST", help="file to write, or with --model a folder")
    add("--model", metavar="NAME", help="require that the weights are exactly those of this model")
    parser.add_weights_key()
    add("--layout", metavar="NAME", help="whose names SOURCE has (default: what it is recognised as)")
    parser.checks.append(_require_source_and_dest)


def inspect_options(parser: Parser) -> None:
    parser.description = (
        "What a file or folder of weights holds: keys, arrays with their shapes and dtypes, what `nfjax.load` would "
        "take of it, and which models it fits. No array is read."
    )
    parser.epilog = "example:\n  %(prog)s checkpoint.pth.tar"
    _source(parser)


def which_options(parser: Parser) -> None:
    parser.description = "The models that weights fit, up to classes, channels and image size; 1 if there is none."
    parser.epilog = "example:\n  %(prog)s checkpoint.pth.tar"
    _source(parser)


def _source(parser: Parser) -> None:
    source = "weights file or folder, or hf-hub:organisation/name[@revision]"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_weights_key()
    parser.checks.append(lambda args: _require_source(args.source))


def verify_options(parser: Parser) -> None:
    parser.description = "Compare models with timm, stage by stage (needs torch and timm)."
    parser.epilog = "example:\n  %(prog)s 'eca*' test_nfnet --x64 --img-size 97x113"
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="model names or patterns, e.g. 'eca*'")
    add("--model", nargs="+", action="extend", default=[], metavar="NAME", help="the same")
    add("--all", action="store_true", help="every model of the registry")
    add("--weights", type=weights, metavar="FILE", help="for both libraries; none for random ones (default)")
    parser.add_weights_key()
    add("--x64", action="store_true", help="float64 too, and gradients at every size")
    sizes = "input size, repeatable (default: the model's own and an odd one)"
    add("--img-size", action="append", type=pixels, metavar="HxW", help=sizes)
    parser.hidden("--size", instead_of="--img-size")
    add("--depth", type=int, help="cut transformers to this many blocks, in both libraries")
    add("--seed", type=int, default=0, help="of the random weights and images")
    parser.checks.append(_require_names)


def convert(args: argparse.Namespace) -> int:
    """Write weights as Flax parameters or with timm's names."""
    if args.dest.suffix != ".safetensors":  # a folder
        return export(args)
    from port import to_flax, write_safetensors
    from port.files import FLAX_METADATA

    state = _read(args)
    flax = to_flax(state)  # names and layouts that have no rule are refused here, not by the next reader
    if args.model:
        _model(args.model, state)
    again = replaced(args.dest)
    if args.to == "timm":
        write_safetensors(state, args.dest, format="pt")
    else:
        write_safetensors(flax, args.dest, **FLAX_METADATA)
    return _report(state, args.dest, again)


def export(args: argparse.Namespace) -> int:
    """Write weights with timm's names: a folder if the model is given, else a file."""
    if args.model is None:
        return convert(argparse.Namespace(**vars(args) | {"to": "timm"}))
    import nfjax

    state, again = _read(args), replaced(args.dest / "model.safetensors")
    nfjax.save(_model(args.model, state), args.dest)
    return _report(state, args.dest, again)


def inspect(args: argparse.Namespace) -> int:
    """Print what a file holds; 1 if there is nothing to be taken of it."""
    from port import inspecting

    lines, taken = inspecting.inspect(_file(args.source), args.weights_key)
    print("\n".join(lines))
    return 1 if taken is None else _fits(taken.arrays, args.source)


def which(args: argparse.Namespace) -> int:
    """Print which models weights fit; 1 if it is none."""
    from port.files import read_content
    from port.unwrap import take

    path = _file(args.source)
    taken = take(read_content(path)[0], str(path), args.weights_key)
    print("".join(f"{path}: {said}\n" for said in [taken.said()] if said), end="", file=sys.stderr)
    return _fits(taken.arrays, args.source)


def _fits(arrays: Mapping[str, Any], source: str) -> int:
    from nfjax.weights.which import fitting, nearest
    from port.inspecting import in_timms_names
    from port.unwrap import require_one_kind

    state = in_timms_names(arrays, source)
    fits = fitting(state)
    if not fits:
        require_one_kind(state, source)
    for fit in fits:
        print(f"fits      {fit}")
    print("".join([] if fits else [f"fits      {nearest(state)}\n"]), end="")
    return 0 if fits else 1


def verify(args: argparse.Namespace) -> int:
    """Print the differences to timm, stage by stage; 1 if one is too large."""
    import jax

    import nfjax
    from nfjax import cache
    from nfjax.parity.verify import verify as compare

    patterns = ["*"] if args.all else [*args.names, *args.model]
    names = [name for pattern in patterns for name in nfjax.list_models(pattern) or [pattern]]
    options = {} if args.depth is None else {"depth": args.depth}
    sizes = None if args.img_size is None else [(size[0], size[-1]) for size in args.img_size]
    cache.enable()
    passed = failed = 0
    for name in names:
        start = time.monotonic()
        for row in compare(
            name,
            weights=args.weights,
            weights_key=args.weights_key,
            sizes=sizes,
            x64=args.x64,
            seed=args.seed,
            **options,
        ):
            print(row, flush=True)
            passed, failed = passed + row.ok, failed + (not row.ok)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        jax.clear_caches()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _require_names(args: argparse.Namespace) -> None:
    from nfjax.models.known import require_model

    names = [*args.names, *args.model]
    if not names and not args.all:
        raise ValueError("name the models to verify, or give --all.")
    for name in names:
        if not set("*?[") & set(name):
            require_model(name)


def _require_source_and_dest(args: argparse.Namespace) -> None:
    if args.dest.suffix != ".safetensors":
        expected = f"{args.dest}: expected a file name ending in .safetensors"
        if vars(args).get("to") == "flax":
            raise ValueError(f"{expected} (a folder is what --to timm makes).")
        if args.model is None:
            raise ValueError(f"{expected}, or --model NAME to make a folder of that model.")
    from nfjax.models.known import require_model

    if args.layout is not None:
        from port.layouts import require_layout  # it imports numpy

        require_layout(args.layout)
    if args.model is not None:
        require_model(args.model)
    _require_source(args.source)


def _require_source(source: str) -> None:
    if _of_hub(source) is None and not user_path(source).exists():
        raise no_weights(user_path(source))


def _of_hub(source: str) -> str | None:
    """The repository that a source names; None if it is a file or folder."""
    scheme, colon, rest = source.partition(":")
    return rest if colon and scheme in ("hf-hub", "hf_hub") else None


def _file(source: str) -> Path:
    from port import hub
    from port.files import weights_file

    repo = _of_hub(source)
    return weights_file(source if repo is None else hub.fetch_weights(repo))


def _read(args: argparse.Namespace) -> "State":
    from port.files import read_with_metadata
    from port.layouts import read_as

    found, _ = read_with_metadata(_file(args.source), args.weights_key)
    state, known = read_as(found, args.layout, args.source)
    if known is not None:
        print(f"{args.source} read as: {known.title}")
    return dict(state)


def _model(name: str, state: "State") -> Any:
    """The model with exactly these weights, of any number of classes and input channels."""
    import nfjax
    from nfjax.weights.which import sizes_of

    return nfjax.load(name, weights=state, **sizes_of(name, state))


def _report(state: "State", dest: Path, again: str) -> int:
    count = sum(array.size for array in state.values())
    print(f"{dest}{again}: {counted(len(state), 'tensor')}, {count:,} {plural(count, 'parameter')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
