"""Fine-tuning on photos that have several labels each, listed in a table: docs/multilabel.md.

nfjax train --config=multilabel --config.data.root=TABLE.csv

A row an image: its path, and its labels with | between, or a column for each class. A folder with such a table:
--config.data.name=folder. Any model will do: --config.model.name=vit_medium_patch16_reg4_gap_256.

Hardware: anything. On a GPU add --config.model.dtype=bfloat16; with little memory --config.grad_accum_steps=4.
Measured here: pieces of eight photographs, two side by side, from fresh weights: docs/multilabel.md. From pretrained
    weights it was never run.
"""

from train.config import Augment, Checkpoint, Config, Data, Ema, Loss, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=20,
        model=Model(name="eca_nfnet_l0", weights="pretrained", drop_rate=0.2, drop_path_rate=0.1),
        data=Data(name="manifest", multi_label=True, batch_size=32),
        augment=Augment(scale=(0.6, 1.0), auto_augment="rand-m7-mstd0.5-inc1"),
        loss=Loss("asl"),
        optim=Optim(name="adamw", lr=3e-4, weight_decay=0.05, clip_mode="agc", clip_grad=0.015, layer_decay=0.75),
        schedule=Schedule(warmup_epochs=2),
        ema=Ema(decay=0.99, warmup=True),
        checkpoint=Checkpoint(metric="map"),
    )
