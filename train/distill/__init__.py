"""A teacher, whose outputs for the same images are targets too."""
