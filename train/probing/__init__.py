"""A classifier on the features of a frozen model."""
