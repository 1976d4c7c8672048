"""NFNet-F0 on ImageNet-1k as DeepMind trained it (2102.06171; nfnets/experiment_nfnets.py in deepmind-research).

nfjax train --config=dm_nfnet_f0 --config.data.root=TFDS_DIR --workdir=runs/dm_nfnet_f0

Published: top-1 83.6 % at 256 pixels (the paper); timm finds 83.47 % with DeepMind's weights. Trained at 192 pixels.
    All that is below is published, with two differences in kind: RandAugment is timm's, four operations of magnitude 5;
    mixup or cutmix is drawn for a whole batch, where DeepMind splits it. For F1 and F2 the magnitude is 10, from F3
    on 15.
Hardware, a guess: 4096 images in bfloat16 want some 32 GPUs of 24 GB; fewer take --config.grad_accum_steps.
Measured here: nothing but that the step can be traced.
"""

from train.config import Augment, Checkpoint, Config, Data, Ema, Loss, Mix, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=360,
        model=Model(name="dm_nfnet_f0", drop_rate=0.2, drop_path_rate=0.25, dtype="bfloat16"),
        data=Data(name="tfds/imagenet2012", val_split="validation", batch_size=4096, workers=16),
        augment=Augment(auto_augment="rand-m5-n4-p1"),
        mix=Mix(mixup=0.2, cutmix=1.0),
        loss=Loss(smoothing=0.1),
        optim=Optim(
            name="sgd",
            lr=0.1,
            lr_base_size=256,
            weight_decay=2e-5,
            decay_rule="deepmind",
            clip_mode="agc",
            clip_grad=0.01,
        ),
        schedule=Schedule(warmup_epochs=5),
        ema=Ema(decay=0.99999, warmup=True),
        checkpoint=Checkpoint(keep_best=10),
    )
