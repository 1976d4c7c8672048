"""eca_nfnet_l1 on ImageNet-1k: the recipe of eca_nfnet_l0 for a deeper network at 256 pixels.

nfjax train --config=eca_nfnet_l1 --config.data.root=TFDS_DIR --workdir=runs/eca_nfnet_l1

Published, of the weights timm/eca_nfnet_l1.ra2_in1k: top-1 83.26 % at 256 pixels, 84.06 % at 320, the test size here.
Chosen here, hardware: as for eca_nfnet_l0; twice its computation. More stochastic depth, for the depth.
Measured here: nothing but that the step can be traced.
"""

from train.config import Config
from train.configs import eca_nfnet_l0


def get_config() -> Config:
    config = eca_nfnet_l0.get_config()
    config.model.name, config.model.drop_path_rate = "eca_nfnet_l1", 0.15
    return config
