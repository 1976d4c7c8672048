"""What is shown while a run goes on, by a clock that the test moves."""

import io

import jax
import pytest
from rich.console import Console

from nfjax.support.meter import duration
from train.report.progress import Progress, Speed


class Clock:
    """Time that passes only when told."""

    now = 1000.0

    def __call__(self):
        return self.now


def run(console, clock, steps=100, start=0, log=5, eval_every=50):
    """Steps of 0.125 s after one of 60 s that compiles, evaluations of 25.5 s."""
    with Progress(steps, start, images_per_step=32, steps_per_epoch=25, console=console, clock=clock) as progress:
        for step in range(start + 1, steps + 1):
            clock.now += 60 if step == start + 1 else 0
            progress.step(step)
            clock.now += 0.125
            if step % log == 0:
                progress.log(step, {"loss": 2.0 / step, "lr": 0.05, "grad_norm": 1.0})
            if step % eval_every == 0:
                with progress.evaluation(3) as advance:
                    for _ in range(3):
                        clock.now += 8.5
                        advance()
                progress.evaluated(step, {"test_top1": 0.5, "test_loss": 1.25})
    return progress


def batch_job():
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def test_the_log_of_a_batch_job():
    console = batch_job()
    progress = run(console, Clock(), steps=400, log=20, eval_every=200)
    assert console.file.getvalue().splitlines() == [
        "step 20/400 epoch 0.80 loss 0.1 lr 0.05 256 images/s ETA 0:00:48",
        "step 100/400 epoch 4.00 loss 0.02 lr 0.05 256 images/s ETA 0:00:38",  # ten seconds later
        "step 180/400 epoch 7.20 loss 0.01111 lr 0.05 256 images/s ETA 0:00:28",
        "step 200/400 epoch 8.00 evaluation: top1 50.00 %, loss 1.25",
        # The evaluation took 25.5 s; in the time that is left it counts in proportion to the steps.
        "step 220/400 epoch 8.80 loss 0.009091 lr 0.05 256 images/s ETA 0:00:43",
        "step 300/400 epoch 12.00 loss 0.006667 lr 0.05 256 images/s ETA 0:00:21",
        "step 380/400 epoch 15.20 loss 0.005263 lr 0.05 256 images/s ETA 0:00:04",
        "step 400/400 epoch 16.00 loss 0.005 lr 0.05 256 images/s ETA 0:00:00",
        "step 400/400 epoch 16.00 evaluation: top1 50.00 %, loss 1.25",
    ]
    assert progress.images_per_second == pytest.approx(256)


def test_a_continued_run_counts_its_own_time():
    console = batch_job()
    run(console, Clock(), steps=100, start=40, log=10, eval_every=1000)
    first = console.file.getvalue().splitlines()[0]
    assert first == "step 50/100 epoch 2.00 loss 0.04 lr 0.05 256 images/s ETA 0:00:06"


def test_the_speed_is_that_of_the_steps():
    """Whatever is slow between them, and however unevenly they come."""
    clock = Clock()
    with Progress(200, 0, images_per_step=32, steps_per_epoch=25, console=batch_job(), clock=clock) as progress:
        clock.now += 60
        for step in range(1, 201):
            progress.step(step)
            clock.now += 1.0 if step % 10 == 0 else 0.1  # one of ten waits for its images: 0.19 s in the mean
            progress.log(step, {"loss": 1.0})
            if step % 25 == 0:
                with progress.evaluation(1):
                    clock.now += 40
                with progress.paused():  # curves are drawn, a checkpoint is begun
                    clock.now += 5
    assert progress.images_per_second == pytest.approx(32 / 0.19, rel=0.1)


def test_compiling_is_announced():
    for console in (batch_job(), Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)):
        clock = Clock()
        with (
            Progress(9, 0, images_per_step=1, steps_per_epoch=1, console=console, clock=clock) as progress,
            progress.compiling("the training step"),
        ):
            clock.now += 12.5
        text = console.file.getvalue()
        assert text.index("compiling the training step\n") < text.index("compiled in 12.5 s\n")
    assert "compiling, 0:00:" in text


def test_a_terminal_has_a_bar_and_results_above_it():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    run(console, Clock())
    text = console.file.getvalue()
    assert "evaluation ━" in text
    assert "step 50/100 epoch 2.00 evaluation: top1 50.00 %, loss 1.25\n" in text
    assert "100/100 epoch 4.00 loss 0.02 lr 0.05 256 images/s ETA 0:00:00" in text.splitlines()[-2]
    assert text.count("training ━") < 40  # at most one a second: steps are quicker


def test_lines_are_printed_as_they_are():
    for console in (batch_job(), Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60)):
        with Progress(10, 0, images_per_step=1, steps_per_epoch=1, console=console) as progress:
            progress.print("[0.1] " + "long " * 40 + "[bold]")
        assert "[0.1] " + "long " * 40 + "[bold]\n" in console.file.getvalue()


def test_the_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for console in (batch_job(), Console(file=io.StringIO(), force_terminal=True)):
        progress = run(console, Clock())
        progress.print("hello")
        assert console.file.getvalue() == ""
        assert progress.images_per_second == pytest.approx(256)


def test_speed_forgets():
    clock = Clock()
    speed = Speed(0, clock)
    assert speed.seconds_per_step is None
    for step in range(1, 201):
        clock.now += 1.0 if step <= 100 else 0.5
        speed.measure(step)
        if step == 100:
            assert speed.seconds_per_step == pytest.approx(1.0)
    assert 0.5 < speed.seconds_per_step < 0.65
    assert speed.left(10) == pytest.approx(10 * speed.seconds_per_step)


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "0:01:00"), (3723, "1:02:03"), (90000, "1 day 1:00:00"), (180000, "2 days 2:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
