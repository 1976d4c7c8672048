"""What `nfjax doctor` looks at. Nothing here imports jax, which may be what is broken: a process of its own does."""
