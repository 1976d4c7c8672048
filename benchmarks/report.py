"""Results as text, JSON and a bar chart, with the machine, the versions and the date."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
NAMES = ("ours compiled", "ours folded", "ours", "timm eager", "torch.compile")  # which have a colour in all charts
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "timm")


def machine() -> str:
    """Processor or accelerator, as its maker calls it."""
    import jax

    if jax.default_backend() != "cpu":
        return str(jax.devices()[0].device_kind)
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(
    what: str, header: dict[str, Any], rows: Sequence[dict[str, Any]], folder: Path, measured: str = "time"
) -> Path:
    """`<what>-<date>.json` and `.png` in `folder`; each row has `title` and `ratios` {name: [one per round]} of what
    was measured."""
    path = save(what, header, rows, folder)
    _chart(f"{what}, {machine()}, {_today()}", rows, path.with_suffix(".png"), measured)
    return path


def save(what: str, header: dict[str, Any], rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """`<what>-<date>.json` in `folder`, with the machine and the versions."""
    header = {
        "what": what,
        "date": _today(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    } | header
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}-{header['date']}.json"
    path.write_text(json.dumps(header | {"rows": list(rows)}, indent=1) + "\n")
    return path


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _chart(title: str, rows: Sequence[dict[str, Any]], path: Path, measured: str) -> None:
    """Bars of the median ratio of each row, with the middle half of its rounds; the line at 1 is timm's best."""
    import numpy as np

    from nfjax.support.pictures import make_figure, open_frame, save_figure

    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    color_of = {name: f"C{place}" for place, name in enumerate(dict.fromkeys((*NAMES, *names)))}
    figure = make_figure(9, 1.2 + 0.28 * len(names) * len(rows))
    axes = figure.subplots()
    for offset, name in enumerate(names):
        shown = [(i, row["ratios"][name]) for i, row in enumerate(rows) if name in row["ratios"]]
        places = [i + (offset + 0.5) / (len(names) + 1) for i, _ in shown]
        low, middle, high = np.array([np.percentile(values, (25, 50, 75)) for _, values in shown]).T
        errors = [(middle - low).tolist(), (high - middle).tolist()]  # of an array matplotlib takes a row for a number
        style = {"color": color_of[name], "label": name, "error_kw": {"lw": 0.8}}
        axes.barh(places, middle, 0.9 / (len(names) + 1), xerr=errors, **style)
        for place, value, end in zip(places, middle, high, strict=True):
            axes.text(end + 0.01, place, f"{value:.2f}", va="center", fontsize=8)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks([i + len(names) / 2 / (len(names) + 1) for i in range(len(rows))], [row["title"] for row in rows])
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(f"{measured} / timm's best; bars: the median, lines: the middle half of the rounds", fontsize=9)
    open_frame(axes)
    axes.margins(x=0.08)  # for the numbers
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    save_figure(figure, path)
