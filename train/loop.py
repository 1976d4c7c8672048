"""The training loop: what happens between a config and a finished run."""

import contextlib
import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from nfjax.params import merge
from nfjax.weights.saving import hub_config
from port.interrupts import INTERRUPTED
from train import data
from train.checkpoints import averages
from train.checkpoints.base import kept_base
from train.checkpoints.files import best_first, load_weights
from train.checkpoints.manager import Checkpoints
from train.checkpoints.mirror import Mirror, mirrored
from train.cli.options import Profile
from train.config import Config
from train.crossing.beginning import first_state
from train.data.broken import require_images
from train.experiment import Experiment, build
from train.machine.before_jax import require_deterministic_operations
from train.machine.interrupt import Interrupt
from train.machine.mesh import put_batch, replicated
from train.optim.lora import scale_of
from train.optim.patience import Patience
from train.optim.scores import scores_of
from train.optim.state import State
from train.report import card, curves, summary
from train.report.metrics import Metrics
from train.report.non_finite import NonFiniteError, Watch
from train.report.progress import Progress
from train.report.result import RunResult
from train.report.screen import Screen, expendable
from train.report.workdir import claim, locked, other_devices, record_environment, require_space
from train.step import compile_train_step, make_eval_step


class Stopped(Exception):
    """The run was asked to stop, by a signal, and has saved where it was."""

    def __init__(self, message: str, number: signal.Signals):
        super().__init__(message)
        self.signal = number

    @property
    def status(self) -> int:
        """Exit status of a command: where a machine is taken away or a terminal closed, nothing has gone wrong."""
        return INTERRUPTED if self.signal is signal.SIGINT else 0


def run(config: Config, workdir: Path | str, *, profile: Profile | None = None) -> RunResult:
    """Train, or continue the run that `workdir` holds, and save the last and the best model in it, `final` and `best`.

    Args:
        config: of the run.
        workdir: receives all that docs/training.md lists; a folder, or an address in an object store.
        profile: steps of which a trace is written to `workdir/profile`.

    Raises:
        ValueError: for a config that cannot be run, or a work folder of another run.
        NonFiniteError: the loss or the gradient was not finite.
        Stopped: a signal asked for it, or nobody reads standard output any more; everything is saved.
    """
    with Interrupt() as interrupt:
        interrupt.nothing_to_save = True  # until the first step
        if config.deterministic:
            require_deterministic_operations()
        experiment = build(config)
        require_images(experiment.dataset.test.source, config.data.stall_seconds)
        with mirrored(workdir) as mirror:
            result = _run(config, experiment, mirror, mirror.folder if mirror else Path(workdir), interrupt, profile)
        return dataclasses.replace(result, workdir=workdir)


def _run(
    config: Config,
    experiment: Experiment,
    mirror: Mirror | None,
    workdir: Path,
    interrupt: Interrupt,
    profile: Profile | None,
) -> RunResult:
    with locked(workdir):
        claim(workdir, dataclasses.asdict(config))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(experiment.state_shapes.kept))
        require_space(workdir, size * (config.checkpoint.keep_last + config.checkpoint.keep_best + 1))
        record_environment(workdir, experiment.steps_per_epoch)
        base = kept_base(workdir, experiment.base, experiment.model)
        experiment = dataclasses.replace(experiment, base=base)
        screen = Screen(workdir, lambda: interrupt.stop(signal.SIGPIPE), mirror.told if mirror else str)
        interrupt.log = screen.log
        sealed = mirror.try_to_send if mirror else lambda: None
        if mirror is not None:
            mirror.say = screen.print
        try:
            with Checkpoints(workdir, config.checkpoint, sealed) as checkpoints, checkpoints.named():
                result = _Run(experiment, workdir, checkpoints, interrupt, screen, profile).run()
        except BaseException as error:
            screen.log(str(error) or type(error).__name__)
            raise
        screen.log(str(result))
        return result


class _Run:
    """The loop over the steps of one experiment, and what it does between them."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        checkpoints: Checkpoints,
        interrupt: Interrupt,
        screen: Screen,
        profile: Profile | None,
    ):
        self.experiment, self.config = experiment, experiment.config
        self.workdir, self.checkpoints, self.interrupt = workdir, checkpoints, interrupt
        self.screen, self.profile = screen, profile
        self.eval_step, self.compiled = make_eval_step(experiment), False
        self.total = experiment.learning_rate.total_steps
        self.eval_every = experiment.every(self.config.eval_epochs)
        self.save_every = experiment.every(self.config.checkpoint.every_epochs)
        self.evaluated = 0  # the step after which the last evaluation was
        self.scores: dict[str, float] = {}  # what it found
        self.patience = Patience(self.config.early_stop)
        self.told: set[str] = set()  # what is said but once

    def run(self) -> RunResult:
        state = self._first_state()
        start = int(state.step)
        with (
            Metrics(self.workdir, self.config.log, start, self.screen.print) as self.metrics,
            Progress(
                self.total,
                start,
                images_per_step=self.config.data.batch_size,
                steps_per_epoch=self.experiment.steps_per_epoch,
                console=self.screen.console,
                say=self.screen.print,
                averaged=bool(self.config.ema.decay),
            ) as self.progress,
        ):
            if start and self._is_due(start) and self.evaluated < start:  # the evaluation was interrupted
                state = self._evaluate(state, start)
                self._stop_if_asked(start)
                self._ends_early(start)
            state = self._train(state, start)
        self._export(state)
        scores = {key.removeprefix("test_"): value for key, value in self.scores.items()}
        return RunResult(scores, self.total, self.workdir)

    def _first_state(self) -> State:
        """The newest checkpoint, or the state before the first step."""
        restored = self.checkpoints.restore(self.experiment.state_shapes.kept, self.screen.print)
        if restored is None:
            return first_state(self.experiment, self.workdir, self.screen.print)
        state, meta = restored
        state = dataclasses.replace(state, base=self.experiment.based(self.experiment.base))
        if meta["data"] != self._data_meta():
            raise ValueError(
                f"{self.workdir}: the run was trained on {meta['data']}, and now there is {self._data_meta()}; "
                "continuing would be neither run. Restore the images, or choose another --workdir."
            )
        if int(state.step) > self.total:
            raise ValueError(
                f"{self.workdir}: the run has done {int(state.step)} steps, and epochs={self.config.epochs} are only "
                f"{self.total}."
            )
        self.evaluated, self.scores = meta["evaluated"], meta["scores"]
        self.patience.remember(meta.get("patience", {}))
        if self.patience.is_over:
            self.total = int(state.step)
        if self.evaluated == int(state.step) == self.total:
            self.screen.print(
                f"{self.workdir} is finished at step {self.total} of {self.total}: nothing is left to do. To go on "
                f"with its weights, start a run with another --workdir and --config.model.weights={self.workdir}."
            )
        else:
            self.screen.print(f"continuing {self.workdir} at step {int(state.step)} of {self.total}")
            if other := other_devices(self.workdir):
                self.screen.print(other)
        return state

    def _train(self, state: State, start: int) -> State:
        """All steps after `start`."""
        if start == self.total:
            return state
        traced = self.profile.steps(start) if self.profile else range(0)
        if traced and not start < traced.start < traced.stop <= self.total:
            raise ValueError(
                f"--profile: steps {traced.start} to {traced.stop - 1} are not within those that are left, "
                f"{start + 1} to {self.total}."
            )
        experiment, watch = self.experiment, Watch(self.workdir)
        self.progress.print(summary.overview(experiment, self.workdir, start=start))
        with self.progress.compiling("the training step"):
            train_step = compile_train_step(experiment)
        if told := summary.costs(experiment, train_step):
            self.progress.print(told)
        train, report = experiment.dataset.train, self.workdir / data.REPORT
        answers = experiment.answers(self.workdir, self.progress.print)
        batches = data.train_batches(train, self.config.data, self.config.seed, start, report)
        try:
            with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
                for step in range(start + 1, self.total + 1):
                    self._trace(step, traced, state)
                    batch = next(batches)
                    sent = put_batch(experiment.mesh, experiment.for_devices(batch, answers))
                    state, metrics = train_step(state, sent)
                    self.interrupt.nothing_to_save = False
                    self.progress.step(step)
                    for done, values in watch.add(step, batch, metrics):
                        self._log(done, values)
                    stop, due = self.interrupt(), self._is_due(step)
                    if not (stop or due or step % self.save_every == 0):
                        continue
                    for done, values in watch.flush():  # so that no state is saved that is not finite
                        self._log(done, values)
                    if due and not stop:
                        state = self._evaluate(state, step)
                    with self.progress.paused():
                        self._save(state, step)
                    if self._ends_early(step):
                        break
                    self._stop_if_asked(step)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error} {self.checkpoints.last_good()} A lower optim.lr, a longer schedule.warmup_epochs or a "
                "smaller optim.clip_grad helps most often; in bfloat16, see whether float32 does."
            ) from None
        return state

    def _is_due(self, step: int) -> bool:
        """Whether an evaluation follows the step."""
        return step % self.eval_every == 0 or step == self.total

    def _ends_early(self, step: int) -> bool:
        """Whether the evaluation after a step was one too many without an improvement: it is the last step then."""
        if over := self.patience.is_over and self.evaluated == step:
            self.total = step
            self.progress.print(f"stops early, after step {step}: {self.patience}")
        return over

    def _stop_if_asked(self, step: int) -> None:
        """Raise `Stopped` if the run was asked to stop, unless nothing is left to do."""
        if self.interrupt.signal is not None and self.evaluated < self.total:
            self.checkpoints.wait()  # it is not saved before it is written
            raise Stopped(f"{self.interrupt.signal.name}: saved step {step} of {self.total}", self.interrupt.signal)

    def _log(self, step: int, values: dict[str, float]) -> None:
        self.progress.log(step, values)
        if step % self.config.log.every_steps == 0 or step == self.total:
            self.metrics.write(step, values)

    def _evaluate(self, state: State, step: int) -> State:
        """Score the state on the test images, unless asked to stop meanwhile; the plateau learns of it."""
        experiment, size = self.experiment, self.config.data.batch_size
        test, sums = experiment.dataset.test, []
        with self.progress.evaluation(math.ceil(len(test) / size)) as advance:
            for batch in data.test_batches(test, self.config.data, size):
                if self.interrupt():
                    return state
                with contextlib.nullcontext() if self.compiled else self.progress.compiling("the evaluation"):
                    sums.append(self.eval_step(state.eval_params, put_batch(experiment.mesh, batch)))
                self.compiled = True
                advance()
            sums = jax.device_get(sums)
        with self.progress.paused():
            return self._evaluated(state, step, sums)

    def _evaluated(self, state: State, step: int, sums: list[Any]) -> State:
        """Tell everyone what an evaluation found."""
        experiment = self.experiment
        found = scores_of(sums, several=experiment.several)
        self.scores = {f"test_{key}": value for key, value in found.items()}
        self.evaluated = step
        self.patience.evaluated(step, self.scores)
        self.metrics.write(step, self.scores)
        few = experiment.model.num_classes <= 5  # of which top-5 is always 100 %
        self.progress.evaluated(step, {key: self.scores[key] for key in self.scores if not few or key != "test_top5"})
        if jax.process_index() == 0:
            with expendable(self.workdir / curves.FILE_NAME, self._tell_once):
                curves.plot(self.workdir)
        if state.plateau:
            metric = self.config.checkpoint.metric
            better = np.float32(self.scores[f"test_{metric}"] * (-1 if metric == "loss" else 1))
            whole = replicated(experiment.mesh)
            update = jax.jit(experiment.learning_rate.evaluated, out_shardings=whole)
            state = dataclasses.replace(state, plateau=update(state.plateau, jax.device_put(better, whole), state.step))
        return state

    def _tell_once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self.screen.print(text)

    def _save(self, state: State, step: int) -> None:
        meta = {"data": self._data_meta(), "evaluated": self.evaluated, "scores": self.scores}
        meta["patience"] = self.patience.memory
        meta["model"] = hub_config(self.experiment.model)
        if self.config.lora.rank:
            meta["lora_scale"] = scale_of(self.config.lora)
        scores = {key.removeprefix("test_"): value for key, value in self.scores.items()}
        self.checkpoints.save(state.kept, meta, scores if self.evaluated == step else None)

    def _data_meta(self) -> dict[str, Any]:
        """What the batches follow from, besides the config."""
        train = self.experiment.dataset.train.source
        taught = self.experiment.teacher
        told = {} if taught is None else {"teacher": taught.identity}
        return {"images": len(train), "fingerprint": train.fingerprint()} | told

    def _trace(self, step: int, steps: range, state: State) -> None:
        """Start the profiler before the first of the steps that were asked for, and stop it after the last one."""
        if step == steps.start:
            jax.profiler.start_trace(self.workdir / "profile")
        elif step == steps.stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.progress.print(f"trace of steps {steps.start} to {step - 1}: {self.workdir / 'profile'}")

    def _export(self, state: State) -> None:
        """Write what was evaluated last, and what was best, as folders that timm and nfjax load."""
        gather = jax.jit(self.experiment.adapted, out_shardings=replicated(self.experiment.mesh))
        params = gather(state.eval_params)
        if jax.process_index() == 0:
            model = merge(self.experiment.graphdef, params)
            said = f"{card.save_final(model, self.workdir, self.config, self.scores)}, after step {self.total}"
            if self.config.checkpoint.keep_best:
                self.checkpoints.wait()
                metric = self.config.checkpoint.metric
                found = averages.scores(self.workdir)
                # A run that was stopped before its last evaluation has a last checkpoint without one.
                found[self.total] = {key.removeprefix("test_"): value for key, value in self.scores.items()}
                step = best_first(found, metric)[0]
                if step == self.total:
                    nfjax.save(model, self.workdir / "best")
                else:
                    averages.save(self.workdir, load_weights(self.workdir, step), step, self.workdir / "best")
                said += f"; {self.workdir / 'best'}, after step {step}, the best by test {metric}"
            self.screen.print(f"saved {said}; curves: {self.workdir / curves.FILE_NAME}")
