"""Sections of a config; `train.config` has them all."""
