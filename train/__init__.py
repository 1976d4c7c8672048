"""Training: `python -m train.main --config=digits`."""
