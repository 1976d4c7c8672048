"""torch.compile's programs of the comparisons, made beforehand: torch keeps them on disk, and takes a minute for each.

For a machine that is there for minutes: run it beside parts that time nothing.
"""

import argparse
import time

from benchmarks import harness, infer, peer, train


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what warm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--of", nargs="+", choices=("infer", "train"), default=["infer", "train"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, help="side of the images; as of --what infer and train by default")
    args = parser.parse_args(argv)
    dtype = peer.default_dtype()
    peer.set_up(dtype)
    for name in args.models:
        for of in args.of:
            start = time.perf_counter()
            if of == "train":
                train.Task(harness.Case(name, args.size or 160, args.batch, dtype)).theirs["torch.compile"]()
            else:
                task = infer.Task(harness.Case(name, args.size, args.batch, dtype))
                for key in task.theirs.keys() & {"torch.compile", "compile half"}:
                    task.theirs[key]()
            print(f"{of} {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0
