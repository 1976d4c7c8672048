"""What `python -m train.evaluate` is made of."""
