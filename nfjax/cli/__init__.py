"""The commands on models and images. Their options are in `options`, which imports nothing that takes long."""
