"""Pictures: matplotlib without a window system."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from port.atomic import replacing, require_writable
from port.messages import require
from port.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp", ".tif", ".tiff")
DPI = 120  # of every picture
TILE = 224  # pixels of the longer side of a picture of a sheet
COLORS = {None: "black", True: "tab:green", False: "tab:red"}


def make_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure, in inches; not pyplot's, which keeps figures and looks for a window system."""
    figure: Figure = require("matplotlib.figure", "pictures").Figure(figsize=(width, height), dpi=DPI, layout=layout)
    require("matplotlib.backends.backend_agg", "pictures").FigureCanvasAgg(figure)
    return figure


def open_frame(axes: "Axes") -> None:
    """No lines above and to the right of a plot, where there are no numbers."""
    axes.spines[["top", "right"]].set_visible(False)


def require_picture(path: Path) -> Path:
    """The file of a figure, before the work that goes into it; without an ending a .png, as matplotlib has it.

    Raises:
        ValueError: matplotlib writes no such format.
        OSError: it cannot be written.
    """
    require("matplotlib", "pictures")
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    return require_writable(path, ENDINGS)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure, atomically, in the format of the path's suffix."""
    path = require_picture(path)
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a file's name: an empty box says it too
        figure.savefig(partial, dpi="figure")


class Cell(NamedTuple):
    """A picture of a sheet.

    Attributes:
        image: a Pillow image or an array, as matplotlib draws it.
        title: lines of text above it.
        good: whether what it shows is right, which colours the title; None for neither.
    """

    image: Any
    title: str
    good: bool | None = None


def draw_sheet(
    path: Path, rows: Sequence[Sequence[Cell]], *, title: str = "", lines: int = 3, line_after: int = 0
) -> None:
    """Write pictures in rows, each with its title.

    Args:
        lines: of the longest title.
        line_after: so many pictures at the beginning of each row a line sets apart from the others.
    """
    Line2D = require("matplotlib.lines", "pictures").Line2D
    columns = max(map(len, rows))
    top, above = (0.45 if title else 0.05), 0.16 * lines + 0.1
    height = top + (1.9 + above) * len(rows)
    figure = make_figure(2.1 * columns, height, layout=None)  # of so many axes, finding one takes seconds
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.02 / height, top=1 - (top + above) / height, hspace=above / 1.9, wspace=0.06
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("N")  # titles of a row in one line
    for row, cells in zip(grid, rows, strict=True):
        for axes, cell in zip(row, cells, strict=False):
            image = cell.image
            if hasattr(image, "copy") and hasattr(image, "thumbnail"):
                image = image.copy()
                image.thumbnail((TILE, TILE))
            axes.imshow(image)
            color = COLORS[cell.good]
            axes.set_title(cell.title, fontsize=7.5, color=color, parse_math=False, linespacing=1.15)
        if 0 < line_after < len(cells):
            place = row[line_after].get_position(original=True)  # not of its picture, which may be narrow
            left, top, bottom = place.x0 - 0.005, place.y1, place.y0
            figure.add_artist(Line2D([left, left], [bottom, top], color="tab:grey", lw=1.5))
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.12 / height, va="top", parse_math=False)
    save_figure(figure, path)


def shortened(name: str, most: int = 30) -> str:
    """The end of a file's name, which tells it from others, in so many characters."""
    name = one_line(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"
