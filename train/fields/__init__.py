"""Sections of a config that have a file of their own; `train.config` puts them together."""
