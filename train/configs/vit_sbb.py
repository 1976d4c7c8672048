"""A register ViT on ImageNet-1k, after timm's "searching for better baselines" (sbb).

nfjax train --config=vit_sbb --config.data.root=TFDS_DIR --workdir=runs/vit_sbb

Published, of the weights timm/vit_medium_patch16_reg4_gap_256.sbb_in1k: top-1 83.47 % at 256 pixels. The cards name
    AdamW (some NAdamW), cross-entropy (some BCE), more weight decay than DeiT III and high augmentation; timm's logs
    rand-m8-inc1-mstd1.0-n4, three repeats of an image, cutmix, stochastic depth 0.2, clipping of the global norm at 5
    and 600 epochs.
Chosen here: learning rate, weight decay, warm-up, smoothing, mixup, erasing, and 2048 images a step.
Hardware, a guess: eight GPUs of 24 GB, 256 images each. Time: 769 million images.
Measured here: nothing but that the step can be traced. With NAdamW and BCE:
    --config.optim.name=nadamw --config.loss.name=bce --config.loss.bce_target_thresh=0.2
"""

from train.config import Augment, Checkpoint, Config, Data, Ema, Loss, Mix, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=600,
        model=Model(name="vit_medium_patch16_reg4_gap_256", drop_path_rate=0.2, dtype="bfloat16"),
        data=Data(name="tfds/imagenet2012", val_split="validation", batch_size=2048, aug_repeats=3, workers=16),
        augment=Augment(auto_augment="rand-m8-inc1-mstd1.0-n4"),
        mix=Mix(cutmix=1.0, mixup=0.8, reprob=0.25),
        loss=Loss(smoothing=0.1),
        optim=Optim(name="adamw", lr=1e-3, lr_base_size=2048, weight_decay=0.1, clip_mode="norm", clip_grad=5.0),
        schedule=Schedule(warmup_epochs=10, warmup_lr=1e-6, min_lr=1e-6),
        ema=Ema(decay=0.9999, warmup=True),
        checkpoint=Checkpoint(keep_best=10),
    )
