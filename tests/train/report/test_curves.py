"""The pictures of a run."""

import json

import numpy as np
import pytest
from PIL import Image

from train.curves import main
from train.report.curves import PANELS, POINTS, _draw_panel, draw, load_curves, plot, running_mean, thin
from train.report.workdir import record_environment


def write(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def measured(count, top1=0.9):
    for step in range(1, count + 1):
        yield {"step": step, "loss": 2 / step, "top1": 0.5, "lr": 0.1, "grad_norm": 1.0, "clip_rate": 0.0}
        if step % 10 == 0:
            yield {"step": step, "test_loss": 2 / step, "test_top1": top1 - 1 / step, "test_top5": 0.99}


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def ink(path):
    """Share of the picture that is not white."""
    return float((pixels(path) < 250).any(-1).mean())


def test_a_run_is_drawn(tmp_path):
    path = plot(write(tmp_path, measured(40)))
    assert path == tmp_path / "curves.png"
    assert pixels(path).shape == (1176, 1536, 3)  # five panels in three rows
    assert 0.02 < ink(path) < 0.3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


@pytest.mark.parametrize(
    "lines",
    [None, [], [{"step": 1, "loss": 2.0}], [{"step": 1, "loss": None, "lr": 0.0}], [{"step": 5, "unheard_of": 1.0}]],
    ids=["no file", "no line", "one line", "nothing finite", "nothing known"],
)
def test_whatever_there_is_is_drawn(tmp_path, lines):
    path = plot(tmp_path if lines is None else write(tmp_path, lines))
    assert ink(path) > 0


def test_runs_that_lie_over_each_other_are_told_apart():
    """By colour and by marks, which stand at other steps for each run."""
    steps = np.arange(1.0, 33.0)
    same = {"loss": (steps, 1 / steps), "test_loss": (steps, 1 / steps)}
    axis = axes_of(PANELS[0], {f"run{i}": same for i in range(12)})
    lines = [line for line in axis.get_lines() if line.get_marker() not in ("", "None")]
    seen = {(line.get_color(), line.get_marker(), line.get_markevery()) for line in lines}
    assert len(seen) == 12
    assert len({(color, mark) for color, mark, _ in seen}) == 12
    assert len({every for *_, every in seen}) == 4  # of four steps from one mark to the next


def axes_of(panel, runs):
    from matplotlib.figure import Figure

    axis = Figure().add_subplot()
    _draw_panel(axis, panel, runs)
    return axis


def test_curves_are_those_of_the_file(tmp_path):
    lines = list(measured(40))
    curves = load_curves(write(tmp_path, [*lines, {"step": 41, "loss": None}]))
    steps, loss = curves["loss"]
    assert steps.tolist() == list(range(1, 42))
    assert loss[:-1].tolist() == [2 / step for step in range(1, 41)]
    assert np.isnan(loss[-1])
    accuracy = axes_of(PANELS[1], {"": curves})
    faint, train, top1, top5 = accuracy.get_lines()
    assert (faint.get_alpha(), train.get_alpha()) == (0.35, None)
    np.testing.assert_allclose(train.get_ydata(), 50)
    np.testing.assert_allclose(top1.get_ydata(), [100 * (0.9 - 1 / s) for s in (10, 20, 30, 40)])
    assert top1.get_xdata().tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(top5.get_ydata(), 99)
    assert accuracy.get_title() == "Accuracy (%): best test top-1 87.50 at step 40"
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == list(PANELS[1].curves.values())


def test_steps_are_told_in_epochs(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("train.report.curves.save_figure", lambda figure, path: drawn.append(figure))
    a, b = (write(tmp_path / name, measured(40)) for name in "ab")
    for folder in (a, b):
        record_environment(folder, 16)
        plot(folder)
    record_environment(b, 20)
    main([str(a), str(b), f"--output={tmp_path / 'both.png'}"])
    (a / "environment.json").write_text("[")
    plot(a)
    told = [(figure.axes[-1].get_xlabel(), figure.axes[1].get_title()) for figure in drawn]
    best = "Accuracy (%): best test top-1 87.50 at step 40"
    assert told[0] == told[1] == ("step (an epoch is 16 steps)", f"{best}, epoch 2.5")
    assert told[2] == ("step", "Accuracy (%)")
    assert told[3] == ("step", best)


def test_logarithms_only_of_what_has_them(tmp_path):
    curves = load_curves(write(tmp_path, measured(40)))
    assert axes_of(PANELS[0], {"": curves}).get_yscale() == "log"
    curves["loss"][1][3] = 0.0
    assert axes_of(PANELS[0], {"": curves}).get_yscale() == "linear"


@pytest.mark.parametrize(("first", "last"), [(2.3, 2.2), (2.3, 0.9), (2.3, 0.05), (7.0, 1e-3), (0.11, 0.09)])
def test_the_loss_axis_has_numbers(first, last):
    steps = np.arange(1.0, 41.0)
    axis = axes_of(PANELS[0], {"": {"loss": (steps, np.geomspace(first, last, 40))}})
    low, high = axis.get_ylim()
    shown = [tick for tick in axis.get_yticks() if low <= tick <= high]
    assert 2 <= len(shown) <= 9, shown


def test_several_runs_have_a_colour_each(tmp_path):
    runs = {name: load_curves(write(tmp_path / name, measured(40, top1))) for name, top1 in (("a", 0.9), ("b", 0.8))}
    lines = axes_of(PANELS[1], runs).get_lines()
    assert [line.get_color() for line in lines] == ["C0"] * 4 + ["C1"] * 4
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", ":"] * 2
    both = pixels(draw(runs, tmp_path / "both.png", title="two"))
    assert (both == (255, 127, 14)).all(-1).sum() > 1000


def test_many_points_become_means_of_neighbours():
    steps, values = thin(np.arange(2.0, 2 * POINTS + 3), np.arange(2.0, 2 * POINTS + 3) ** 2)
    assert len(steps) == len(values) <= POINTS
    assert (steps[0], values[0]) == (3.0, (4 + 9 + 16) / 3)
    few = np.arange(5.0)
    assert all(np.array_equal(a, few) for a in thin(few, few))


def test_running_mean_is_centred_and_skips_gaps():
    values = np.arange(400.0)
    np.testing.assert_allclose(running_mean(values)[4:-4], values[4:-4])
    values[200] = np.nan
    assert running_mean(values)[201] == (sum(range(197, 206)) - 200) / 8
    assert np.isnan(running_mean(np.array([np.nan]))).all()


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write(tmp_path / name, measured(20))
    main(["a"])
    main(["a", "b"])
    main(["a", "b", "--output=both.svg"])
    assert capsys.readouterr().out.splitlines() == ["a/curves.png", "curves.png", "both.svg"]
    assert "<svg" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere (working directory: "),
        (["a", "--output=a.gif"], "a.gif: expected a file name ending in .png, .jpg, "),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", measured(1))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
