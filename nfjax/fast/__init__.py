"""The same operations as in the formulas, written for the sake of one backend's speed or memory."""
