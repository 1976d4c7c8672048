"""From gradients to updates: clipping, optimisers, schedules, losses, and the rules by parameter."""
