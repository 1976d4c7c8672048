"""A small NFNet on the 1,797 handwritten digits that scikit-learn bundles.

python -m train.main --config=train/configs/digits.py
"""

from train.config import Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        epochs=30,
        model=Model(name="test_nfnet", drop_rate=0.1, drop_path_rate=0.05),
        data=Data(name="digits", image_size=32, batch_size=50, shift=2),
        optim=Optim(lr=0.1, agc=0.015, weight_decay=2e-5, warmup_epochs=2, label_smoothing=0.1),
    )
