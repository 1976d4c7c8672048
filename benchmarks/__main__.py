"""python -m benchmarks --what infer --models eca_nfnet_l0 nfnet_l0 --batch 1 8"""

import argparse
import importlib
import os
import sys

from train.machine.before_jax import use_huge_pages

WHAT = {  # one module each
    "infer": "logits of a batch: ours compiled and jitted, timm eager and torch.compile",
    "train": "a training step: ours, timm eager and torch.compile",
    "load": "from the start of a process to the first logits, and of it the weights",
    "compile": "tracing, lowering and compiling inference and a training step, beside torch.compile",
    "memory": "peak memory of the two",
    "program": "what a GPU that is not there would have to do: kernels, bytes and operations of the compiled programs",
    "right": "whether this device computes the CPU's logits and gradients; on a GPU cuDNN's attention and exports too",
    "kernels": "where the time of the programs goes on this device, by XLA's profiler",
    "warm": "torch.compile's programs of infer and train, for torch to keep on disk",
    "routes": "ways to compile a model, timed on this device: of grouped convolutions, and options of XLA",
    "onnx": "every architecture as an ONNX file, and onnxruntime beside nfjax.compile",
    "data": "training images from JPEG files: ours and timm's loader of uint8 batches",
    "recipes": "loss curves of the cards' recipes on photographs: ours, and timm's as its train.py trains",
    "loop": "a step of the training loop, beside the compiled step alone",
    "many": "what `nfjax embed` into a folder costs beside reading and computing, as images and processes grow",
    "checkpoint": "how long the loop waits for a checkpoint, of the time until it is complete",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ratios to timm, measured in the same run on the same inputs; below 1 is faster than timm.",
        epilog="\n".join(f"{name:<11}{text}" for name, text in WHAT.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("--what", choices=WHAT)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    known, rest = parser.parse_known_args(argv)
    if known.what is None:
        parser.print_help()
        return 0 if {"-h", "--help"} & set(rest) else 2
    # Before jax is imported: on a GPU it would take three quarters of the memory, and leave torch the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return importlib.import_module(f"benchmarks.{known.what}").main(rest)


if __name__ == "__main__":
    if make_parser().parse_known_args()[0].what in ("train", "loop"):
        use_huge_pages(sys.argv[1:])  # for both libraries, as train.main does
    sys.exit(main())
