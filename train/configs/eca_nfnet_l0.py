"""eca_nfnet_l0 on ImageNet-1k, along the lines of its model card.

nfjax train --config=eca_nfnet_l0 --config.data.root=TFDS_DIR --workdir=runs/eca_nfnet_l0

Published, of the weights timm/eca_nfnet_l0.ra2_in1k: top-1 81.76 % at 224 pixels, 82.59 % at 288, the test size here.
    The card names SGD with Nesterov momentum, a cosine schedule, adaptive clipping at 0.015, RandAugment, dropout and
    stochastic depth, but neither their strengths nor learning rate, batch and epochs.
Chosen here: learning rate, weight decay, batch, epochs and warm-up of DeepMind's NFNets (2102.06171, section 5), with a
    quarter of the batch; RandAugment rand-m9-mstd0.5-inc1, mixup, cutmix, erasing and smoothing.
Hardware, a guess: 1024 images in bfloat16 want about eight GPUs of 24 GB; fewer take --config.grad_accum_steps.
Time: 461 million images. timm publishes 724 a second for training on one RTX 3090: 177 hours at that rate.
Measured here: a step of the network at batch 8, in float32 and without augmentation, takes 2.2 s on two CPU cores. It
    has never been trained to the end with this code.
"""

from train.config import Augment, Checkpoint, Config, Data, Ema, Loss, Mix, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=360,
        model=Model(name="eca_nfnet_l0", drop_rate=0.2, drop_path_rate=0.1, dtype="bfloat16"),
        data=Data(name="tfds/imagenet2012", val_split="validation", batch_size=1024, workers=16),
        augment=Augment(auto_augment="rand-m9-mstd0.5-inc1"),
        mix=Mix(mixup=0.2, cutmix=1.0, reprob=0.25),
        loss=Loss(smoothing=0.1),
        optim=Optim(name="sgd", lr=0.1, lr_base_size=256, weight_decay=2e-5, clip_mode="agc", clip_grad=0.015),
        schedule=Schedule(warmup_epochs=5),
        ema=Ema(decay=0.9999, warmup=True),
        checkpoint=Checkpoint(keep_best=10),
    )
