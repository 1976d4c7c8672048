"""Pictures: matplotlib without a window system."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from port.atomic import replacing, require_writable
from port.messages import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp", ".tif", ".tiff")


def make_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure, in inches; not pyplot's, which keeps figures and looks for a window system."""
    figure: Figure = require("matplotlib.figure", "pictures").Figure(figsize=(width, height), dpi=100, layout=layout)
    require("matplotlib.backends.backend_agg", "pictures").FigureCanvasAgg(figure)
    return figure


def require_picture(path: Path) -> Path:
    """The file of a figure, before the work that goes into it; without an ending a .png, as matplotlib has it.

    Raises:
        ValueError: matplotlib writes no such format.
        OSError: it cannot be written.
    """
    require("matplotlib", "pictures")
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    return require_writable(path, ENDINGS)


def save_figure(figure: "Figure", path: Path, dpi: float | None = None) -> None:
    """Write a figure, atomically, in the format of the path's suffix."""
    path = require_picture(path)
    with replacing(path) as partial:
        figure.savefig(partial, dpi="figure" if dpi is None else dpi)
