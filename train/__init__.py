"""Training: `python -m train.main --config=train/configs/digits.py`."""
