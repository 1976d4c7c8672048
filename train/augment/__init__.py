"""Random transforms of training images, on the host: Pillow images in, uint8 arrays out."""

from train.augment.transform import TrainTransform, create_train_transform

__all__ = ["TrainTransform", "create_train_transform"]
