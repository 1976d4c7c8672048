"""Hostile and hurt inputs, made at random from a seed.

A kind of input is a file here with two functions:

    mutants(rng) -> input    one input, made from a valid one with this `random.Random` alone
    try_(input, folder)      use it as nfjax does; `folder` is an empty one to work in

What is tried either works or raises a ValueError or an OSError of one line. `KINDS` in `tests.fuzz.attack` names the
files; `python -m tests.fuzz configs 600` tries one kind for ten minutes.
"""
