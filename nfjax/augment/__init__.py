"""Random transforms of training images, on the host: Pillow images in, uint8 arrays out."""

from nfjax.augment.transform import Augment, RandomTransform, TrainTransform, create_train_transform

__all__ = ["Augment", "RandomTransform", "TrainTransform", "create_train_transform"]
