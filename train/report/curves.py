"""Curves of a run as a picture, or of several runs for comparison. Training itself writes WORKDIR/curves.png."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfjax.support.pictures import make_figure, open_frame, require_picture, save_figure
from port.text import counted
from train.report.metrics import FILE, read_metrics
from train.report.workdir import steps_per_epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "curves.png"
POINTS = 1000  # a curve of more is drawn as means of neighbours: more would be neither seen nor quick
SMOOTHING = 50  # a running mean is over this part of the points


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str  # what it shows, with the unit
    curves: Mapping[str, str]  # labels by key of metrics.jsonl
    scale: float = 1.0  # factor from the file's numbers to those shown
    log: bool = False  # show orders of magnitude
    noisy: bool = True  # measured on one batch at a time: drawn faintly, with a running mean over it


PANELS = (
    Panel("Loss", {"loss": "train", "test_loss": "test"}, log=True),
    Panel("Accuracy (%)", {"top1": "train, top-1", "test_top1": "test, top-1", "test_top5": "test, top-5"}, 100),
    Panel("Average precision, F1 (%)", {"test_map": "test, mAP", "test_f1": "test, F1"}, 100),
    Panel("Learning rate", {"lr": ""}, noisy=False),
    Panel("Gradient norm", {"grad_norm": ""}, log=True),
    Panel("Clipped units (%)", {"clip_rate": ""}, 100),
    Panel("Images per second", {"images_per_second": ""}),
)
STYLES = ("-", "--", ":")  # of a panel's curves, where colours and marks tell runs apart
MARKS = "osD^vP*X<>p"  # of runs; not as many as colours, so that a second run of a colour has another mark
MARKED = 8  # points of a curve, where runs are told apart by their marks too
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def plot(workdir: Path) -> Path:
    """Draw the metrics.jsonl of a run into its curves.png, whatever of it there is so far."""
    return _draw_runs([workdir], workdir / FILE_NAME)


def load_curves(workdir: Path) -> Curves:
    """Steps and values of each key of a run's metrics.jsonl. A value that was not finite is a gap, NaN."""
    lines: dict[str, list[tuple[int, Any]]] = {}
    for line in read_metrics(workdir):
        step = line.pop("step")
        for key, value in line.items():
            lines.setdefault(key, []).append((step, np.nan if value is None else value))
    columns = {key: np.array(rows, float).T for key, rows in lines.items()}
    return {key: (steps, values) for key, (steps, values) in columns.items() if np.isfinite(values).any()}


def draw(runs: Mapping[str, Curves], path: Path, *, title: str, per_epoch: int | None = None) -> Path:
    """Draw runs, by the names that the legend shows, over each other; the ending of `path` is the format.

    Args:
        per_epoch: steps of an epoch, the same of all runs; None if that is not known.
    """
    panels = [panel for panel in PANELS if any(curves.keys() & panel.curves.keys() for curves in runs.values())]
    columns = min(2, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    width, height = 6.4 * columns, 3.0 * rows + 0.8
    figure = make_figure(width, height, layout=None)  # "constrained" takes as long as drawing
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.2 / width, bottom=0.75 / height, top=1 - 0.75 / height, wspace=0.14, hspace=0.22
    )
    figure.suptitle(title if panels else f"{title}: nothing measured yet", fontsize=13, fontweight="bold")
    first: Axes | None = None
    for index, panel in enumerate(panels):
        axis = figure.add_subplot(rows, columns, index + 1, sharex=first)
        first = first or axis
        _draw_panel(axis, panel, runs, per_epoch)
        axis.tick_params(labelbottom=index + columns >= len(panels))
        if index + columns >= len(panels):
            axis.set_xlabel("step" if per_epoch is None else f"step (an epoch is {counted(per_epoch, 'step')})")
    if len(runs) > 1:
        styles = {name: {"color": f"C{i}", "marker": MARKS[i % len(MARKS)]} for i, name in enumerate(runs)}
        _legend(figure, styles, loc="lower center", ncols=min(len(runs), 4))
    save_figure(figure, path)
    return path


def _draw_panel(axis: "Axes", panel: Panel, runs: Mapping[str, Curves], per_epoch: int | None = None) -> None:
    positive, alone = True, len(runs) == 1
    styles: dict[str, dict[str, Any]] = {}
    for run, curves in enumerate(runs.values()):
        for index, (key, label) in enumerate(panel.curves.items()):
            if key not in curves:
                continue
            steps, values = curves[key][0], curves[key][1] * panel.scale
            positive &= bool(np.all(values[np.isfinite(values)] > 0))
            # One run: a colour for each curve. Several: a colour for each run, a style for each curve.
            styles[label] = {"color": f"C{index}"} if alone else {"color": "0.4", "linestyle": STYLES[index]}
            style = styles[label] | {"color": f"C{index if alone else run}"}
            marker: dict[str, Any] = {"markersize": 3.5}
            if not alone:  # at other steps for each run: runs that lie over each other are all seen
                points = min(len(steps), POINTS)
                every = max(1, points // MARKED)
                first = every * run // len(runs)
                marker = {"marker": MARKS[run % len(MARKS)], "markersize": 5, "markevery": (first, every)}
            elif np.isfinite(values).sum() == 1 or (len(steps) <= 60 and key.startswith("test_")):
                marker["marker"] = "o"
                styles[label] |= marker
            if panel.noisy and not key.startswith("test_"):
                axis.plot(*thin(steps, values), **style, linewidth=0.8, alpha=0.35)
                values = running_mean(values)
            axis.plot(*thin(steps, values), **style, **marker)
    title = panel.title
    only = next(iter(runs.values())) if alone else {}
    if "test_top1" in panel.curves.keys() & only.keys():
        steps, values = only["test_top1"]
        best = int(np.nanargmax(values))
        title += f": best test top-1 {values[best] * panel.scale:.2f} at step {steps[best]:.0f}"
        title += "" if per_epoch is None else f", epoch {round(steps[best] / per_epoch, 2):g}"
    axis.set_title(title, fontsize=11, y=1.0)  # where it would be; to be told saves the search
    axis.grid(alpha=0.3)
    open_frame(axis)
    if panel.log and positive:
        _log_scale(axis)
    else:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 6), useMathText=True)  # short enough for the margin
    if len(panel.curves) > 1:
        _legend(axis, styles, loc="best", fontsize=9)


def _log_scale(axis: "Axes") -> None:
    """Orders of magnitude, with plain numbers beside them also where the values span less than one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    powers = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,))
    axis.yaxis.set_major_locator(MaxNLocator(5, prune="both") if high / low < 10 else powers)
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _legend(where: Any, styles: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style) for style in styles.values()]
    where.legend(handles, list(styles), frameon=False, **options)


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points: means over neighbours, which all have the same number of points but the last."""
    size = -(-len(steps) // POINTS) or 1
    starts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over `len / SMOOTHING` points around each, fewer at the ends; gaps count for nothing."""
    reach = len(values) // SMOOTHING // 2
    finite = np.isfinite(values)
    sums = np.cumsum(np.append(0.0, np.where(finite, values, 0.0)))
    counts = np.cumsum(np.append(0, finite))
    first = np.maximum(np.arange(len(values)) - reach, 0)
    last = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def draw_runs(runs: Sequence[Path], path: Path | None) -> Path:
    """Draw the metrics.jsonl of one run, or of several over each other.

    Args:
        path: RUN/curves.png for one run, else curves.png, unless given.

    Raises:
        ValueError: a folder is no run, or a picture cannot be written by that name.
    """
    for run in runs:
        if not (run / FILE).exists():
            raise ValueError(f"{run} is not the work folder of a run: it has no {FILE}.")
    return _draw_runs(runs, require_picture(path or (runs[0] if len(runs) == 1 else Path()) / FILE_NAME))


def _draw_runs(runs: Sequence[Path], path: Path) -> Path:
    title = runs[0].absolute().name if len(runs) == 1 else f"{len(runs)} runs"
    per_epoch = set(map(steps_per_epoch, runs))
    common = per_epoch.pop() if len(per_epoch) == 1 else None
    return draw({str(run): load_curves(run) for run in runs}, path, title=title, per_epoch=common)
