"""What `nfjax evaluate` is made of."""
