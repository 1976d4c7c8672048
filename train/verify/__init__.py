"""Training against timm: `python -m train.verify`."""
