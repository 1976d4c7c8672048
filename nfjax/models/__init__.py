"""The architectures, each family in a file that reads beside its paper."""
