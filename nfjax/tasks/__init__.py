"""What people do with images and a model in one call."""
