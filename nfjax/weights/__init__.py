"""From a model's name to the model with its weights, and back into folders and repositories."""
