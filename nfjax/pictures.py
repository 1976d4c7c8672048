"""Pictures: matplotlib without a window system."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from port.atomic import replacing
from port.messages import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure, in inches; not pyplot's, which keeps figures and looks for a window system."""
    figure: Figure = require("matplotlib.figure", "pictures").Figure(figsize=(width, height), dpi=100, layout=layout)
    require("matplotlib.backends.backend_agg", "pictures").FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path, dpi: float | None = None) -> None:
    """Write a figure, atomically, in the format of the path's suffix."""
    path = path if path.suffix else path.with_name(f"{path.name}.png")  # as matplotlib would
    with replacing(path) as partial:
        figure.savefig(partial, dpi="figure" if dpi is None else dpi)
