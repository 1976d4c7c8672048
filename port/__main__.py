"""Weights between timm and JAX, from the command line.

    python -m port convert model.safetensors flax.safetensors          timm names -> Flax paths
    python -m port export flax.safetensors model.safetensors           Flax paths -> timm names
    python -m port export checkpoint.pth.tar FOLDER --model nfnet_l0   a folder that timm and nfjax load
    python -m port verify eca_nfnet_l0 --x64                           against timm itself, stage by stage

An entry point stands above the floors: it may import the models, which the package `port` itself may not.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from port import hub, read_weights, to_flax, write_safetensors
from port.files import FLAX_METADATA, State


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m port", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    convert = _command(
        commands,
        "convert",
        "timm weights to a safetensors file of Flax parameters",
        "python -m port convert hf-hub:timm/nfnet_l0.ra2_in1k flax.safetensors",
    )
    convert.set_defaults(run=_convert)
    export = _command(
        commands,
        "export",
        "any weights to timm's names, or to a folder that timm loads",
        "python -m port export checkpoint.pth.tar my_nfnet --model nfnet_l0",
    )
    export.set_defaults(run=_export)
    for command in (convert, export):
        command.add_argument("source", help="weights file or folder, or hf-hub:organisation/name[@revision]")
        command.add_argument("dest", type=Path, help="file to write (export --model: folder)")
        command.add_argument("--model", help="require that the weights are exactly those of this model")

    verify = _command(
        commands,
        "verify",
        "compare models with timm (needs torch and timm)",
        "python -m port verify 'eca*' test_nfnet --x64 --size 97x113",
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("names", nargs="*", metavar="NAME", help="model names or patterns, e.g. 'eca*'")
    verify.add_argument("--all", action="store_true", help="every model of the registry")
    verify.add_argument("--weights", help="a weights file for both libraries, instead of random values")
    verify.add_argument("--x64", action="store_true", help="float64 too, and gradients at every size")
    verify.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="HxW",
        help="input size, repeatable (default: the model's own and an odd one)",
    )
    verify.add_argument("--depth", type=int, help="cut transformers to this many blocks, in both libraries")
    verify.add_argument("--seed", type=int, default=0, help="of the random weights and images")

    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _command(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _convert(args: argparse.Namespace) -> int:
    state = _read(args.source)
    if args.model:
        _model(args.model, state)
    write_safetensors(to_flax(state), _file(args.dest), **FLAX_METADATA)
    return _report(state, args)


def _export(args: argparse.Namespace) -> int:
    state = _read(args.source)
    if args.model:
        import nfjax

        nfjax.save(_model(args.model, state), args.dest)
    else:
        to_flax(state)  # names and layouts that have no rule are refused here, not by the next reader
        write_safetensors(state, _file(args.dest), format="pt")
    return _report(state, args)


def _verify(args: argparse.Namespace) -> int:
    import jax

    import nfjax
    from nfjax import cache
    from nfjax.parity.verify import verify

    patterns = ["*"] if args.all else args.names
    names = [name for pattern in patterns for name in nfjax.list_models(pattern) or [pattern]]
    if not names:
        raise ValueError("name the models to verify, or give --all.")
    options = {} if args.depth is None else {"depth": args.depth}
    cache.enable()
    passed = failed = 0
    for name in names:
        start = time.monotonic()
        for row in verify(name, weights=args.weights, sizes=args.size, x64=args.x64, seed=args.seed, **options):
            print(row, flush=True)
            passed, failed = passed + row.ok, failed + (not row.ok)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        jax.clear_caches()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _read(source: str) -> State:
    scheme, colon, rest = source.partition(":")
    if colon and scheme in ("hf-hub", "hf_hub"):
        return read_weights(hub.fetch_weights(rest))
    return read_weights(source)


def _model(name: str, state: State) -> Any:
    """The model with exactly these weights, whatever its number of classes and input channels."""
    import nfjax
    from nfjax.loading import sizes_of

    return nfjax.load(name, weights=state, **sizes_of(name, state))


def _file(dest: Path) -> Path:
    if dest.suffix != ".safetensors":
        raise ValueError(
            f"{dest}: expected a file name ending in .safetensors (a folder is what export --model makes)."
        )
    return dest


def _report(state: State, args: argparse.Namespace) -> int:
    count = sum(array.size for array in state.values())
    print(f"{args.dest}: {len(state)} tensors, {count:,} parameters")
    return 0


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


if __name__ == "__main__":
    sys.exit(main())
