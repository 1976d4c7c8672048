"""Formulas: what the architectures are made of."""
