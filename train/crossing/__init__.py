"""A change of framework in mid-run: a training checkpoint of timm's train.py continued here, and one of ours there."""
