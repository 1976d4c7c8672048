"""A small NFNet on the 1,797 handwritten digits that scikit-learn bundles.

nfjax train --config=digits

Hardware: anything. Measured here: top-1 99.72 % on the 360 digits for testing; a minute and a half of CPU time.
"""

from train.config import Augment, Checkpoint, Config, Data, Loss, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=30,
        eval_epochs=5,
        model=Model(name="test_nfnet", drop_rate=0.1, drop_path_rate=0.05),
        data=Data(name="digits", image_size=32, batch_size=50, shift=2, cache=True),
        augment=Augment(no_aug=True),
        loss=Loss(smoothing=0.1),
        optim=Optim(lr=0.1, weight_decay=2e-5, clip_mode="agc", clip_grad=0.015),
        schedule=Schedule(warmup_epochs=2),
        checkpoint=Checkpoint(every_epochs=5),
    )
