"""Learning rates against timm's schedulers, stepped the way timm's training loop steps them."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nfjax.parity import oracle
from train.cli.fields import fields
from train.cli.mistakes import check
from train.config import Config, Schedule
from train.optim.schedules import make_schedule

oracle.timm()
LR, EPOCHS, PER_EPOCH = 0.4, 6, 7
OURS_TO_TIMM = {"linear": "poly"}


def theirs(schedule, metrics=()):
    """timm's learning rate before every step, two epochs beyond the end of the run, and the length of the run."""
    from timm.scheduler import create_scheduler_v2

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm advises against plateau
        scheduler, epochs = create_scheduler_v2(
            optimizer,
            sched=OURS_TO_TIMM.get(schedule.name, schedule.name),
            num_epochs=EPOCHS,
            decay_epochs=schedule.decay_epochs,
            decay_rate={"linear": 1.0, "poly": schedule.power}.get(schedule.name, schedule.decay_rate),  # poly's power
            decay_milestones=list(schedule.milestones),
            k_decay=schedule.k_decay,
            cooldown_epochs=schedule.cooldown_epochs,
            patience_epochs=schedule.patience_epochs,
            min_lr=schedule.min_lr,
            warmup_lr=schedule.warmup_lr,
            warmup_epochs=schedule.warmup_epochs,
            warmup_prefix=schedule.warmup_prefix,
            cycle_mul=schedule.cycle_mul,
            cycle_decay=schedule.cycle_decay,
            cycle_limit=schedule.cycle_limit,
            step_on_epochs=not schedule.on_updates,
            updates_per_epoch=PER_EPOCH,
        )
    values, updates = [], 0
    for epoch in range(int(epochs) + 2):
        for _ in range(PER_EPOCH):
            values.append(optimizer.param_groups[0]["lr"])
            updates += 1
            scheduler.step_update(num_updates=updates)
        scheduler.step(epoch + 1, metrics[epoch] if metrics else None)
    return np.array(values), int(epochs) * PER_EPOCH


WARMUPS = [
    {},
    {"warmup_epochs": 2, "warmup_lr": 1e-3},
    {"warmup_epochs": 2, "warmup_prefix": True},
    {"warmup_epochs": 1.5, "warmup_lr": 1e-3},
    {"warmup_epochs": 2.5, "warmup_prefix": True, "warmup_lr": 1e-3},
]
CYCLES = [
    {"min_lr": 0.01},
    {"min_lr": 0.01, "cooldown_epochs": 2},
    {"cycle_limit": 3, "cycle_decay": 0.5, "min_lr": 1e-3},
    {"cycle_limit": 2, "cycle_mul": 2.0, "cooldown_epochs": 1},
    {"cycle_limit": 3, "cycle_mul": 1.5, "cycle_decay": 0.7, "min_lr": 1e-3},
]
OPTIONS = {
    "cosine": [*CYCLES, {"k_decay": 2.0}],
    "linear": CYCLES,
    "poly": [{**CYCLES[1], "k_decay": 1.5}, {**CYCLES[2], "power": 2.0}],
    "tanh": [CYCLES[0], CYCLES[4]],
    "multistep": [{"milestones": (2.0, 4.0), "decay_rate": 0.3}, {"milestones": (1.0, 1.5, 7.0)}],
    "step": [{"decay_epochs": 2.0}, {"decay_epochs": 1.5, "decay_rate": 0.5}],
    "wsd": [{"decay_epochs": 0.2}, {"decay_epochs": 2.0, "min_lr": 0.01}, {"decay_epochs": 0.5, "cooldown_epochs": 1}],
    "constant": [{}],
}


@pytest.mark.parametrize("on_updates", [True, False], ids=["updates", "epochs"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_step_is_timms(name, on_updates, x64):
    for options, warmup in itertools.product(OPTIONS[name], WARMUPS):
        schedule = Schedule(name, on_updates=on_updates, **{**options, **warmup})
        ours = make_schedule(schedule, lr=LR, epochs=EPOCHS, steps_per_epoch=PER_EPOCH)
        expected, total = theirs(schedule)
        assert ours.total_steps == total, schedule
        found = jax.vmap(ours)(jnp.arange(256))[: len(expected)]  # of one shape, so that little is compiled
        assert found.dtype == jnp.float64
        # Before the first update timm's optimiser has the peak, whatever the schedule says.
        first = 0 if warmup or name not in ("tanh", "multistep") else 1 if on_updates else PER_EPOCH
        np.testing.assert_allclose(found[first:], expected[first:], rtol=1e-13, atol=1e-16, err_msg=str(schedule))


@pytest.mark.parametrize("warmup", WARMUPS[:3])  # a plateau of timm's never reaches its peak after half epochs
def test_plateau_is_timms(warmup, x64):
    metrics = [0.1, 0.3, 0.3, 0.30001, 0.2, 0.31, 0.31, 0.31, 0.31, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    schedule = Schedule("plateau", on_updates=False, patience_epochs=1, decay_rate=0.3, min_lr=0.05, **warmup)
    ours = make_schedule(schedule, lr=LR, epochs=EPOCHS + 8, steps_per_epoch=PER_EPOCH)
    expected, _ = theirs(schedule, metrics)
    plateau, evaluated = ours.init(), jax.jit(ours.evaluated)
    for step, value in enumerate(expected):
        assert float(ours(jnp.int32(step), plateau)) == pytest.approx(value, rel=1e-13)
        if (step + 1) % PER_EPOCH == 0:
            plateau = evaluated(plateau, metrics[step // PER_EPOCH], step + 1)
    assert len(set(expected[-7 * PER_EPOCH :])) > 1


def test_plateau_of_a_loss_is_timms(x64):
    """timm minimises a loss; here its negative grows."""
    losses = [3.0, 2.0, 1.99999, 2.5, 1.5, 1.4999, 1.4, 1.4]
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR), patience=0, threshold=1e-3
    )
    ours = make_schedule(
        Schedule("plateau", patience_epochs=0, threshold=1e-3), lr=LR, epochs=8, steps_per_epoch=PER_EPOCH
    )
    plateau = ours.init()
    for epoch, loss in enumerate(losses):
        reference.step(loss)
        plateau = ours.evaluated(plateau, jnp.asarray(-loss), jnp.asarray((epoch + 1) * PER_EPOCH))
        assert float(plateau.lr) == pytest.approx(reference.get_last_lr()[0], rel=1e-13)
        assert float(plateau.best) == -reference.best
    assert float(plateau.lr) < LR / 100


@pytest.mark.parametrize("name", fields()["schedule.name"].choices)
def test_float32_by_default_and_the_state_keeps_its_types(name):
    options = {"step": {"decay_epochs": 2.0}, "multistep": {"milestones": (2.0,)}}.get(name, {})
    ours = make_schedule(Schedule(name, warmup_epochs=1, **options), lr=LR, epochs=EPOCHS, steps_per_epoch=1000)
    plateau = ours.init()
    rate = jax.jit(ours)(jnp.int32(3500), plateau)
    assert (rate.dtype, rate.shape) == (jnp.float32, ())
    with jax.enable_x64(True):
        reference = make_schedule(ours.config, lr=LR, epochs=EPOCHS, steps_per_epoch=1000)
        expected = float(reference(jnp.int32(3500), reference.init()))
    assert float(rate) == pytest.approx(expected, rel=1e-6)
    after = jax.jit(ours.evaluated)(plateau, jnp.float32(0.5), jnp.int32(3500))
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, plateau)
    if name != "plateau":
        assert plateau == ()


def test_a_long_run_keeps_its_accuracy_in_float32():
    """A million steps: the warm-up's last step, the middle and the end, against float64."""
    schedule = Schedule("cosine", warmup_epochs=5, min_lr=1e-5)
    ours = make_schedule(schedule, lr=LR, epochs=300, steps_per_epoch=5004)
    for step in (25019, 25020, 750_600, 1_501_199):
        with jax.enable_x64(True):
            expected = float(ours(jnp.int32(step)))
        assert float(ours(jnp.int32(step))) == pytest.approx(expected, rel=1e-6, abs=1e-7 * LR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "onecycle"}, r"schedule\.name='onecycle': expected one of cosine, linear, poly"),
        ({"name": "multistep"}, r"schedule\.milestones=\(\) and schedule\.name='multistep'; expected epochs in rising"),
        ({"warmup_epochs": -1}, r"schedule\.warmup_epochs=-1: expected a finite number, at least 0"),
        ({"cycle_limit": 0}, r"schedule\.cycle_limit=0: expected an integer, at least 1"),
        ({"cycle_mul": 0.0}, r"schedule\.cycle_mul=0\.0: expected a finite number, more than 0"),
        ({"name": "step"}, r"schedule\.decay_epochs=0\.2; expected at least 1 for schedule\.name='step'"),
        ({"name": "wsd", "decay_epochs": 5.0, "warmup_epochs": 2}, r"a decay of 5 epochs; .* no more than the 4 that"),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    def run(schedule):
        check(Config(schedule=schedule))
        make_schedule(schedule, lr=LR, epochs=EPOCHS, steps_per_epoch=PER_EPOCH)

    with pytest.raises(ValueError, match=message):
        run(Schedule(**options))


def test_a_run_needs_steps():
    with pytest.raises(ValueError, match="found epochs=0, 7 steps each"):
        make_schedule(Schedule(), lr=LR, epochs=0, steps_per_epoch=PER_EPOCH)
