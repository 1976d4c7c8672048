"""nfnet_l0 on ImageNet-1k: the recipe of eca_nfnet_l0 for its sibling with squeeze-and-excitation.

nfjax train --config=nfnet_l0 --config.data.root=TFDS_DIR --workdir=runs/nfnet_l0

Published, of the weights timm/nfnet_l0.ra2_in1k: top-1 81.87 % at 224 pixels, 82.77 % at 288, the test size here.
Chosen here, hardware, time: as for eca_nfnet_l0.
Measured here: nothing but that the step can be traced.
"""

from train.config import Config
from train.configs import eca_nfnet_l0


def get_config() -> Config:
    config = eca_nfnet_l0.get_config()
    config.model.name = "nfnet_l0"
    return config
