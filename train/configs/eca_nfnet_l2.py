"""eca_nfnet_l2 on ImageNet-1k: the recipe of eca_nfnet_l0 for a network of twice the depth at 320 pixels.

nfjax train --config=eca_nfnet_l2 --config.data.root=TFDS_DIR --workdir=runs/eca_nfnet_l2

Published, of the weights timm/eca_nfnet_l2.ra3_in1k: top-1 84.17 % at 320 pixels, 84.71 % at 384, the test size here.
Chosen here: as for eca_nfnet_l0, with more stochastic depth and dropout.
Hardware, a guess: 1024 images want 32 GPUs of 24 GB; fewer take --config.grad_accum_steps.
Time: timm publishes 142 images a second for training on one RTX 3090: 900 hours at that rate.
Measured here: nothing but that the step can be traced.
"""

from train.config import Config
from train.configs import eca_nfnet_l0


def get_config() -> Config:
    config = eca_nfnet_l0.get_config()
    config.model.name, config.model.drop_rate, config.model.drop_path_rate = "eca_nfnet_l2", 0.3, 0.2
    return config
