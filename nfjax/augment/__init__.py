"""Random transforms of training images, on the host: Pillow images in, uint8 arrays out."""

from typing import TYPE_CHECKING

from port.lazy import lazy

if TYPE_CHECKING:
    from nfjax.augment.options import Augment
    from nfjax.augment.transform import RandomTransform, TrainTransform, create_train_transform
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "nfjax.augment.options": ("Augment",),
            "nfjax.augment.transform": ("RandomTransform", "TrainTransform", "create_train_transform"),
        },
    )

__all__ = ["Augment", "RandomTransform", "TrainTransform", "create_train_transform"]
