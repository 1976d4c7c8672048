"""The options of the commands on models and images, together, so that the same things are spelt the same.

Nothing here imports jax or numpy: a mistake in a command is told at once.
"""

import argparse
import fnmatch
from pathlib import Path
from typing import Any

from nfjax.models.known import architectures, require_model, unknown
from nfjax.support.early import Place, find, place, require_weights
from port.commands import Parser, one_model, pixels, weights
from port.paths import no_file, user_path, user_place

MODEL = "name, folder with a model or of a run, or hf-hub:organisation/name"
WEIGHTS = "file or folder with the weights, instead of the published ones; none for fresh ones"
IMAGES = "files, folders (searched in depth), patterns, http(s) addresses, or - for standard input"
METHODS = ("gradcam", "rollout", "attention")  # as nfjax.tasks.explaining has them


def models(parser: Parser) -> None:
    """`list`."""
    parser.epilog = """examples:
  %(prog)s 'eca*'
  %(prog)s 'vit*reg*' --pretrained --json"""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of the names; default: all")
    parser.add_argument("--pretrained", action="store_true", help="a row for each set of published weights")
    parser.checks.append(lambda args: _require_any(args.pattern))
    _json(parser)


def info(parser: Parser) -> None:
    parser.epilog = """examples:
  %(prog)s eca_nfnet_l0
  %(prog)s vit_wee_patch16_reg1_gap_256.sbb_in1k --no-layers --json"""
    parser.add_model(f"{MODEL}, of which the config is fetched, no weights")
    parser.checks.append(lambda args: require_model(one_model(args)))
    layers = "each layer: its parameters, output shape and cost (default: yes)"
    parser.add_argument("--layers", action=argparse.BooleanOptionalAction, default=True, help=layers)
    _json(parser)


def bench(parser: Parser) -> None:
    parser.description = (
        "Times `nfjax.compile` of a model with fresh weights on this device, nothing fetched: a call is a batch that "
        "is on the device already, its result awaited."
    )
    parser.epilog = """examples:
  %(prog)s eca_nfnet_l0 --batch-size 1 8
  %(prog)s vit_medium_patch16_reg4_gap_256 --batch-size 256 --dtype bfloat16"""
    add = parser.add_argument
    parser.add_model(MODEL)
    parser.checks += [lambda args: require_model(one_model(args)), _require_time]
    img_size_option(parser)
    add("--batch-size", type=int, nargs="+", default=[1], metavar="N", help="images a call; several, a row each")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="to compute in")
    add("--seconds", type=float, default=3.0, help="that calls are timed for, at least five (default: %(default)s)")
    _json(parser)


def classify(parser: Parser) -> None:
    parser.description = (
        "The most probable classes of images, by name. Files that cannot be read are skipped and reported; the exit "
        "code is then 1."
    )
    parser.epilog = """example:
  %(prog)s photos/ cat.jpg 'more/*.png' --model nfnet_l0 --topk 3 --plot top3.png"""
    _images(parser, onnx=True)
    parser.add_argument("--topk", type=int, help="classes per image (default: 5, or as many as there are)")
    form = "default: as FILE ends, or table; parts: parquet files in a folder, for very many images"
    parser.add_argument("--format", choices=("table", "json", "csv", "parquet", "parts"), help=form)
    endings = ".json, .csv, .parquet, .tsv or .txt; a folder for parts"
    parser.add_argument("-o", "--output", type=user_place, metavar="FILE", help=endings)
    _parts(parser)
    parser.add_argument("--plot", type=user_path, metavar="PNG", help="draw each image beside the bars of its classes")


def embed(parser: Parser) -> None:
    parser.description = (
        "The pooled features that enter a model's classifier, float32: arrays `files` (N,) and `embeddings` "
        "(N, features) of an npz, or columns of the same names of a parquet file; in a csv a column for each feature. "
        "Into a folder it writes parquet files of equal size. Any number of processes, on any machines that see the "
        "folder, share the work if they are started with the same command; repeated, it goes on from what is there."
    )
    parser.epilog = """examples:
  %(prog)s photos/ --model vit_base_patch14_reg4_dinov2 --img-size 224 -o photos.npz
  %(prog)s 'shards/*.tar' --model vit_base_patch14_reg4_dinov2 --img-size 224 --batch-size 256 -o embeddings/"""
    _images(parser)
    where = "file name ending in .npz, .parquet or .csv; or a folder, for very many images"
    parser.add_argument("-o", "--output", type=user_place, required=True, metavar="FILE|DIR", help=where)
    parser.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    _parts(parser)


def doctor(parser: Parser) -> None:
    parser.description = (
        "Looks at what nfjax needs, a line each: ok, a warning, or a problem with what to do. The exit code is 1 if "
        "there is a problem. Within a job it shows what a process of it sees: `srun nfjax doctor --workdir DIR`."
    )
    parser.epilog = """examples:
  %(prog)s
  srun %(prog)s --workdir runs/pictures --hub"""
    add = parser.add_argument
    add("--workdir", type=user_place, metavar="DIR", help="of a run: can it be written, is it shared, is there space")
    add("--coordinator", metavar="HOST:PORT", help="of process 0, where no cluster tells: can it be reached")
    add("--hub", action="store_true", help="whether the Hugging Face hub can be reached")
    _json(parser)


def features(parser: Parser) -> None:
    parser.description = (
        "Draws a line per stage: the mean magnitude of the feature map, then the channels that vary most over the "
        "image. With --attention a line per block of a transformer: what the patches attend to on average, then by "
        "head. With --pca images beside their patches, whose red, green and blue are the three main components of what "
        "leaves the last block, the same for all images."
    )
    parser.epilog = """examples:
  %(prog)s cat.jpg --model nfnet_l0 -o features.png
  %(prog)s cat.jpg --model vit_medium_patch16_reg4_gap_256 --attention -o attention.png
  %(prog)s photos/ --model vit_small_patch16_dinov3 --img-size 512 --pca patches.png"""
    add = parser.add_argument
    where = "a file, an http(s) address, or - for standard input; for --pca several, folders or patterns too"
    add("images", type=_place, nargs="+", metavar="IMAGE", help=where)
    parser.checks.append(lambda args: list(map(find, map(str, args.images))) if args.pca else None)
    parser.checks.append(lambda args: None if args.pca else _require_file(args.images[0]))
    model_options(parser)
    add("-o", "--output", type=user_path, default=Path("features.png"), metavar="PNG", help="default: %(default)s")
    add("--indices", type=int, nargs="+", help="stages or blocks (default: those of features_only)")
    add("--channels", type=int, default=7, help="channels or heads per line (default: %(default)s)")
    add("--attention", action="store_true", help="attention maps of a transformer")
    add("--pca", type=user_path, metavar="PNG", help="main components of the patches, of one image or several")


def explain(parser: Parser) -> None:
    parser.description = (
        "Draws where a model looked, over each image: Grad-CAM of convolutional models; of transformers attention "
        "rollout, and the attention of the last block. Titles are the class and its probability."
    )
    parser.epilog = """examples:
  %(prog)s cat.jpg photos/ -o looked
  %(prog)s cat.jpg --model vit_medium_patch16_reg4_gap_256 --method rollout -o looked"""
    _places(parser)
    parser.add_argument("-o", "--output", type=user_path, required=True, metavar="DIR", help="a picture for each image")
    parser.add_argument("--method", choices=METHODS, help="default: all that the model has")
    parser.add_argument("--target", type=int, metavar="CLASS", help="index of the class (default: the most probable)")


def similar(parser: Parser) -> None:
    parser.description = (
        "The images whose pooled features point most nearly the way of another image's, by the cosine; without IMAGE "
        "all pairs that are as near to each other as --threshold says. Embeddings are kept in the cache, by content."
    )
    parser.epilog = """examples:
  %(prog)s cat.jpg --among photos/ -o nearest.png
  %(prog)s --among photos/ --threshold 0.95"""
    add = parser.add_argument
    add("image", type=_place, nargs="?", metavar="IMAGE", help="a file, an http(s) address, or - for standard input")
    add("--among", nargs="+", required=True, metavar="DIR", help=IMAGES)
    parser.checks += [
        lambda args: None if args.image is None else _require_file(args.image),
        lambda args: list(map(find, args.among)),
        _require_question,
    ]
    model_options(parser)
    add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default: %(default)s)")
    add("--topk", type=int, default=10, metavar="N", help="how many images are named (default: %(default)s)")
    add("--threshold", type=float, metavar="COSINE", help="from -1 to 1; near-duplicates have almost 1")
    add("-o", "--output", type=user_path, metavar="PNG", help="draw them as a contact sheet")


def push(parser: Parser) -> None:
    parser.description = (
        "Publish a model on the Hugging Face hub: weights, config.json with the names of classes, and a model card, in "
        "one commit. The token is that of `hf auth login`, or HF_TOKEN."
    )
    parser.epilog = """examples:
  %(prog)s my_model user/my_model --private
  %(prog)s runs/pictures user/pictures --evaluation evaluation"""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("repo", metavar="USER/NAME", help="where to; made if there is no such repository")
    parser.checks += [lambda args: require_model(args.model), lambda args: _require_results(args.evaluation)]
    add("--private", action="store_true", help="a new repository is one that others do not see")
    add("--revision", metavar="BRANCH", help="made if there is none (default: main)")
    add("--message", metavar="TEXT", help="of the commit")
    add("--evaluation", type=user_path, metavar="DIR", help="of `nfjax evaluate`, whose numbers the card then has")
    add("--base-model", metavar="USER/NAME", help="that it was trained from, for the card")


def demo(parser: Parser) -> None:
    parser.description = (
        "A page on this machine alone: drop a picture, and see its classes and where the model looked. Nothing is sent "
        "to anybody."
    )
    parser.epilog = """example:
  %(prog)s eca_nfnet_l0 vit_medium_patch16_reg4_gap_256 ./my_model"""
    more = "name or folder, to choose among; others can be typed in (default: eca_nfnet_l0)"
    parser.add_argument("models", nargs="*", default=["eca_nfnet_l0"], metavar="NAME", help=more)
    parser.checks.append(lambda args: list(map(require_model, args.models)))
    parser.add_argument("--port", type=int, default=7860, help="of the page's address (default: %(default)s)")
    parser.checks.append(lambda args: _require_port(args.port))


def _require_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"--port={port}; expected a number from 1 to 65535.")


def _parts(parser: Parser) -> None:
    group = parser.add_argument_group(
        "into a folder",
        "IMAGE may then be a table of paths (.csv, .jsonl, .parquet), a .parquet file with images or a .tar file, too.",
    )
    size = "images of a part (default: 8192)"
    group.add_argument("--part-size", type=int, metavar="N", help=size)
    group.add_argument("--column", metavar="NAME", help="of tables: where the paths or the images are")
    dead = "after which a silent process of another machine is taken for dead, and its part computed (default: 120)"
    group.add_argument("--patience", type=float, metavar="SECONDS", help=dead)


def _images(parser: Parser, *, onnx: bool = False) -> None:
    _places(parser, onnx=onnx)
    at_a_time = "images at a time (default: %(default)s)"
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help=at_a_time)


def _places(parser: Parser, *, onnx: bool = False) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=IMAGES)
    parser.checks.append(lambda args: list(map(find, args.images)))
    model_options(parser, onnx=onnx)


def model_options(parser: Parser, *, onnx: bool = False) -> None:
    """Which model, with which weights, for images of which size."""
    what = f"{MODEL}{', or FILE.onnx' if onnx else ''} (default: %(default)s)"
    parser.add_argument("--model", default="eca_nfnet_l0", metavar="NAME", help=what)
    parser.checks.append(lambda args: require_model(args.model, onnx=onnx))
    weights_options(parser)
    size = parser.add_mutually_exclusive_group()
    img_size_option(size)
    size.add_argument("--test-size", action="store_true", help="the size and crop that the weights are tested with")
    upright = "turn photos as their EXIF orientation says, which timm does not"
    parser.add_argument("--exif", action="store_true", help=upright)


def weights_options(parser: Parser) -> None:
    parser.add_argument("--weights", type=weights, default="pretrained", metavar="FILE", help=WEIGHTS)
    parser.add_weights_key()
    parser.checks.append(lambda args: require_weights(args.weights))


def img_size_option(group: Any) -> None:
    sides = "side, or height and width, also as HxW"
    group.add_argument("--img-size", type=pixels, nargs="+", metavar="PIXELS", help=sides)


def _place(text: str) -> Place:
    """An image as an argument; a mistake is argparse's."""
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _require_question(args: argparse.Namespace) -> None:
    if args.image is None and args.threshold is None:
        raise ValueError("similar to what? Give an IMAGE, or --threshold 0.95 for pairs of images that are alike.")
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise ValueError(f"--threshold={args.threshold}; a cosine is from -1 to 1.")
    if args.topk < 1:
        raise ValueError(f"--topk={args.topk}; expected at least 1.")


def _require_time(args: argparse.Namespace) -> None:
    if min(args.batch_size) < 1:
        raise ValueError(f"--batch-size={min(args.batch_size)}; expected at least 1.")
    if not 0 < args.seconds <= 3600:
        raise ValueError(f"--seconds={args.seconds:g}; expected more than 0, at most 3600.")


def _require_results(folder: Path | None) -> None:
    if folder is not None and not (folder / "results.csv").is_file():
        raise no_file(folder / "results.csv")


def _require_any(pattern: str) -> None:
    """Refuse what begins no name."""
    if not any(fnmatch.fnmatchcase(name, f"{pattern.partition('.')[0]}*") for name in architectures()):
        raise unknown(pattern, architectures())


def _require_file(path: Place) -> None:
    if isinstance(path, Path) and not path.exists():
        raise no_file(path)


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, with counts in full")
