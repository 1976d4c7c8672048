"""A training run of timm's: its model, optimiser, schedule and moving average, set up as its train.py does."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfjax.parity import oracle
from train.config import Config, Loss
from train.crossing.table import optimizer_options


class Theirs:
    """The run that a config of ours describes, in float64.

    Args:
        config: of the run.
        start: weights by timm name; None for those that timm draws, and float32.
        options: of the model.
        per_epoch: steps of an epoch.
        resume: a checkpoint that it continues, as train.py does with `--resume`; None to begin with `start`.
        teacher: a model of timm's that `config.distill` is about.
    """

    def __init__(
        self,
        config: Config,
        start: Mapping[str, np.ndarray] | None,
        options: Any,
        per_epoch: int,
        resume: Path | None = None,
        teacher: Any = None,
    ):
        from timm.models import load_checkpoint, resume_checkpoint
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        mixed = bool(config.mix.mixup or config.mix.cutmix or config.mix.cutmix_minmax)
        self.loss = _loss(config.loss, several=config.data.multi_label, mixed=mixed)
        self.config, self.per_epoch, schedule, self.done = config, per_epoch, config.schedule, 0
        self.model = oracle.build(config.model.name, start, "float64", **options).requires_grad_(True).train()
        given = {name.removeprefix("opt_"): value for name, value in optimizer_options(config).items()}
        self.optimizer = create_optimizer_v2(self.model, **given)
        if resume is not None:
            self.done = resume_checkpoint(self.model, str(resume), self.optimizer, log_info=False) * per_epoch
        ema = config.ema
        self.ema = ModelEmaV3(self.model, decay=ema.decay, use_warmup=ema.warmup) if ema.decay else None
        if resume is not None and self.ema is not None:
            load_checkpoint(self.ema.module, str(resume), use_ema=True)
        same = {name: getattr(schedule, name) for name in ("warmup_epochs", "warmup_prefix", "warmup_lr", "min_lr")}
        times = {"num_epochs": config.epochs, "step_on_epochs": not schedule.on_updates, "updates_per_epoch": per_epoch}
        self.task = None if teacher is None else _task(config, self.model, teacher)
        self.scheduler, _ = create_scheduler_v2(self.optimizer, schedule.name, **times, **same)
        if self.done:
            self._reschedule()

    def train(self, batches: Sequence[Any]) -> list[float]:
        """Go on with these batches of uint8 images and labels; the losses."""
        import torch

        cfg, losses = self.model.pretrained_cfg, []
        mean, std = (torch.tensor(cfg[name], dtype=torch.float64) for name in ("mean", "std"))
        for batch in batches:
            images = (torch.from_numpy(batch["image"]).double() / 255 - mean) / std
            losses.append(self.learn(images.permute(0, 3, 1, 2), torch.from_numpy(batch["label"])))
        return losses

    def learn(self, x: Any, y: Any) -> float:
        """A step with normalised images and their labels, or targets if they are mixed; the loss."""
        from timm.models import model_parameters
        from timm.utils import dispatch_clip_grad

        optim = self.config.optim
        loss = self.loss(self.model(x), y) if self.task is None else self.task(x, y)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        if optim.clip_grad:
            clipped = model_parameters(self.model, exclude_head="agc" in optim.clip_mode)
            dispatch_clip_grad(clipped, optim.clip_grad, optim.clip_mode)
        self.step()
        return float(loss.item())

    @property
    def rate(self) -> float:
        """The learning rate of the next step, before that of a layer is scaled."""
        return max(group["lr"] / group.get("lr_scale", 1.0) for group in self.optimizer.param_groups)

    def step(self) -> None:
        """A step with the gradients that there are."""
        self.optimizer.step()
        self.done += 1
        if self.ema:
            self.ema.update(self.model, step=self.done)
        self._reschedule()

    def save(self, path: Path) -> None:
        """Write the checkpoint that train.py writes after an epoch."""
        from timm.utils import CheckpointSaver

        saver = CheckpointSaver(self.model, self.optimizer, model_ema=self.ema)
        saver._save(str(path), self.done // self.per_epoch - 1)

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Parameters and their averages by timm name; no averages if there are none."""
        parts = {"params": self.model, "ema": self.ema.module if self.ema else None}
        return {
            which: {key: value.detach().numpy() for key, value in module.named_parameters()} if module else {}
            for which, module in parts.items()
        }

    def _reschedule(self) -> None:
        self.scheduler.step_update(self.done)
        if self.done % self.per_epoch == 0:
            self.scheduler.step(self.done // self.per_epoch)


def _task(config: Config, model: Any, teacher: Any) -> Any:
    """timm's distillation, by the teacher's softmax."""
    import torch
    from timm.task import LogitDistillationTask

    distill = config.distill
    return LogitDistillationTask(
        model, teacher, _loss(config.loss), temperature=distill.temperature, distill_loss_weight=distill.weight,
        task_loss_weight=distill.task_weight, device=torch.device("cpu"), dtype=torch.float64, verbose=False,
    )  # fmt: skip


def _of_several(loss: Loss) -> Callable[..., Any]:
    """timm's binary cross-entropy over the labels that are known; -1 is not."""
    import torch
    from timm.loss import BinaryCrossEntropy

    weight = None if loss.pos_weight is None else torch.tensor(loss.pos_weight, dtype=torch.float64)
    options: dict[str, Any] = {"reduction": "none", "pos_weight": weight, "smooth_dense": True}
    each = BinaryCrossEntropy(loss.smoothing, loss.bce_target_thresh, **options)
    return lambda x, y: each(x, y.clamp(0).double())[y >= 0].mean()


def _loss(loss: Loss, *, several: bool = False, mixed: bool = False) -> Callable[..., Any]:
    from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if several:
        return _of_several(loss)
    if loss.name == "bce":
        return BinaryCrossEntropy(loss.smoothing, loss.bce_target_thresh, sum_classes=loss.bce_sum)
    return SoftTargetCrossEntropy() if mixed else LabelSmoothingCrossEntropy(loss.smoothing)
