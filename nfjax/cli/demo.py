"""`nfjax demo`: a page on this machine that classifies a dropped picture, and shows where the model looked."""

import argparse
import html
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

import nfjax
from nfjax import cache
from nfjax.models.base import ImageModel
from nfjax.tasks.classifying import classifier
from nfjax.tasks.explaining import look, methods_of
from port.text import one_line

HOST = "127.0.0.1"  # nobody else's machine reaches it
TOP = 5
FONTS = ["system-ui", "sans-serif"]  # Gradio's own come from the web


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, which ends every command of nfjax with a line."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import gradio

    cache.enable()
    _require_free(args.port)
    page = _page(gradio, args.models)
    page.launch(
        server_name=HOST, server_port=args.port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        theme=gradio.themes.Base(font=FONTS, font_mono=["monospace"]), footer_links=[],
    )  # fmt: skip
    print(f"http://{HOST}:{args.port}: drop a picture there; Ctrl-C ends it.", flush=True)
    while True:
        time.sleep(3600)


def answer(name: str | None, path: str | None) -> tuple[dict[str, float], np.ndarray | None, str]:
    """What the page shows for a picture: probabilities by class, where the model looked, and a sentence.

    Args:
        name: of a model, or a folder; None or nothing but spaces if none is chosen.
        path: of the picture; None if there is none yet.

    Returns:
        The most probable classes, with nothing but the sentence where something is wrong; a uint8 picture
        `(height, width, 3)` of what the model saw, with what it looked at in red.
    """
    if not (name or "").strip():
        return {}, None, "Choose a model."
    if path is None:
        return {}, None, "Drop a picture."
    try:
        model = classifier(str(name).strip())
        best = nfjax.classify(path, model, topk=TOP)
        seen = _looked(model, Path(path))
    except (ValueError, OSError) as error:
        return {}, None, one_line(str(error))
    names = [label for label, _, _ in best]
    shown = {label if names.count(label) == 1 else f"{label} ({index})": share for label, share, index in best}
    return shown, seen, f"{Path(path).name}, by {model.name}"


def _escaped(name: str | None, path: str | None) -> tuple[dict[str, float], np.ndarray | None, str]:
    """`answer` with its sentence as HTML: in Markdown a_b_c would be slanted, and $x$ a formula."""
    classes, seen, said = answer(name, path)
    return classes, seen, html.escape(said)


def _looked(model: ImageModel, path: Path) -> np.ndarray:
    """What the model saw, and over it where it looked."""
    transform = nfjax.create_transform(model)
    x = transform(nfjax.load_image(path, transform.mode))[None]
    _, (heat,) = look(model, x, methods_of(model)[:1])
    seen = np.clip(x[0] * np.asarray(transform.std) + np.asarray(transform.mean), 0, 1)
    weight = 0.6 * heat[0][..., None]
    return np.asarray(255 * ((1 - weight) * seen + weight * np.array([1.0, 0.1, 0.1])), np.uint8)


def _page(gradio: Any, models: list[str]) -> Any:
    with gradio.Blocks(title="nfjax demo", analytics_enabled=False) as page:
        with gradio.Row():
            with gradio.Column():
                name = gradio.Dropdown(models, value=models[0], label="model or folder", allow_custom_value=True)
                picture = gradio.File(label="picture", type="filepath", elem_id="picture")
            with gradio.Column():
                said = gradio.HTML("Drop a picture.", elem_id="said")
                classes = gradio.Label(label="classes", num_top_classes=TOP, elem_id="classes")
                seen = gradio.Image(
                    label="where the model looked", interactive=False, buttons=["download"], elem_id="seen"
                )
        for given in (name, picture):
            given.change(_escaped, [name, picture], [classes, seen, said], api_visibility="private")
    return page


def _require_free(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise type(error)(
                f"port {port} cannot be used ({error.strerror}); choose another one with --port."
            ) from None
