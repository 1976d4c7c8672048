"""Random transforms of training images, on the host: Pillow images in, uint8 arrays out."""

from train.augment.transform import Augment, TrainTransform, create_train_transform

__all__ = ["Augment", "TrainTransform", "create_train_transform"]
