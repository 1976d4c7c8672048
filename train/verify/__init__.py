"""Training against timm: `nfjax verify-training`."""
