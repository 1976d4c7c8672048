"""What all pictures have in common."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from nfjax.support import pictures
from nfjax.support.pictures import DPI, Cell, draw_sheet, make_figure, open_frame, save_figure


def test_a_name_in_letters_that_the_font_lacks_warns_nobody(tmp_path):
    """Warnings are errors in these tests."""
    figure = make_figure(2, 1)
    figure.suptitle("图 €")
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (2 * DPI, DPI)


def test_a_line_is_between_the_pictures_however_narrow_they_are(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: drawn.append(figure))
    shapes = [(8, 2, 3), (2, 8, 3), (8, 2, 3), (8, 8, 3)]
    cells = [Cell(np.zeros(shape, np.uint8), "a") for shape in shapes]
    draw_sheet(tmp_path / "a.png", [cells, cells[:2]], line_after=2)
    (line,) = drawn[0].artists  # the second row has nothing to set apart
    left, right = (axes.get_position(original=True) for axes in drawn[0].axes[1:3])
    assert left.x1 < line.get_xdata()[0] < right.x0
    assert line.get_ydata() == [right.y0, right.y1]


def test_an_open_frame_has_no_lines_where_there_are_no_numbers():
    axes = make_figure(2, 1).add_subplot()
    open_frame(axes)
    assert [side for side, line in axes.spines.items() if line.get_visible()] == ["left", "bottom"]
