"""`nfjax export --page DIR`: a page that classifies pictures in the browser, for any static host."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from nfjax.cache import folder_for
from nfjax.labels import label_names, problem_type
from nfjax.models.base import ImageModel
from nfjax.models.data_config import MULTI_LABEL
from nfjax.onnx.export import OnnxFile, export_onnx
from nfjax.transforms import EvalTransform, create_transform
from port.atomic import replacing
from port.text import one_line

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512, of npm
)
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist
FILES = {"page.html": "index.html", "prepare.mjs": "prepare.mjs"}  # from nfjax/data to the page
FILTERS = ("box", "bilinear", "hamming", "bicubic", "lanczos")  # of prepare.mjs


def write_page(
    model: ImageModel, folder: Path, *, img_size: tuple[int, int] | None = None, runtime: Path | None = None
) -> OnnxFile:
    """Write a page with a model in it: `index.html`, `model.onnx`, `labels.json` and what runs them, in `ort`.

    It asks no other server. The picture is resized and cropped as `nfjax.create_transform` does it, with Pillow's
    arithmetic; what a browser decodes differently is told in docs/onnx.md.

    Args:
        runtime: a folder with `RUNTIME`; None for those of npm's package, fetched once by `npm` and checked.

    Raises:
        ValueError: the model has no classes, or is none for RGB images; and what `export_onnx` raises.
        FileNotFoundError: the runtime is not there, and there is no npm to fetch it.
        NotADirectoryError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder for the page.")
    if not model.num_classes or model.out_indices is not None:
        raise ValueError(f"{model.name} has no classifier, and so no classes for a page to show.")
    transform = create_transform(model, img_size=img_size)
    if len(transform.mean) != 3 or transform.interpolation not in FILTERS:
        raise ValueError(f"a page is for RGB images, resized by {', '.join(FILTERS)}; found {transform}.")
    files = _fetched() if runtime is None else _found(runtime)
    found = export_onnx(model, folder / "model.onnx", img_size=img_size, uint8=True)
    config = {
        "name": model.name,
        "license": model.data_config.license,
        **settings(transform),
        "labels": label_names(model),
        "independent": problem_type(model) == MULTI_LABEL,
    }
    _write(folder / "labels.json", json.dumps(config, ensure_ascii=False).encode())
    for name, place in FILES.items():
        _write(folder / place, (resources.files("nfjax") / "data" / name).read_bytes())
    for name, file in files.items():
        _write(folder / "ort" / name, file.read_bytes())
    return found


def settings(transform: EvalTransform) -> dict[str, Any]:
    """What prepare.mjs is told of a transform."""
    return {
        "size": transform.size,
        "scale_size": transform.scale_size,
        "crop_mode": transform.crop_mode,
        "interpolation": transform.interpolation,
        "fill": [round(255 * mean) if transform.crop_mode == "border" else 0 for mean in transform.mean],
    }


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def _found(folder: Path) -> dict[str, Path]:
    """The files of the runtime in a folder of the user's."""
    for place in (folder, folder / "dist", folder / "package" / "dist"):
        if all((place / name).is_file() for name in RUNTIME):
            return {name: place / name for name in RUNTIME}
    raise FileNotFoundError(f"{folder} has no {' and '.join(RUNTIME)}, as {PACKAGE} {VERSION} has in its dist.")


def _fetched() -> dict[str, Path]:
    """The files of the runtime, from the cache or by npm."""
    kept = folder_for(f"{PACKAGE}-{VERSION}")
    if kept is not None and all((kept / name).is_file() for name in RUNTIME):
        return {name: kept / name for name in RUNTIME}
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"the page runs the model with {PACKAGE} {VERSION}, which npm would fetch, and npm is not here: install "
            "it, or unpack the package and give its folder: --runtime DIR."
        )
    folder = Path(tempfile.mkdtemp()) if kept is None else kept
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", place]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise ConnectionError(f"npm cannot fetch {PACKAGE} {VERSION}: {one_line(done.stderr)[-300:]}")
        content = archives[0].read_bytes()
        if (digest := base64.b64encode(hashlib.sha512(content).digest()).decode()) != INTEGRITY:
            raise ValueError(
                f"npm's {PACKAGE} {VERSION} has the SHA-512 {digest}; expected {INTEGRITY}. Do not use it."
            )
        with tarfile.open(archives[0]) as archive:
            for name in RUNTIME:
                member: Any = archive.extractfile(f"package/dist/{name}")
                _write(folder / name, member.read())
    return {name: folder / name for name in RUNTIME}
