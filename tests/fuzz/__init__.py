"""Hostile and hurt inputs, made at random from a seed.

A kind of input is a file here with three functions:

    mutants(rng) -> input    one input, made from a valid one with this `random.Random` alone
    put(input, folder)       write it into an empty folder
    try_(input, folder)      use it as nfjax does, and compare what was read with another reader where there is one

What is tried works, or raises a ValueError or an OSError of one line that we wrote; it takes at most ten seconds of
processor time, reads nothing outside of the folder, writes no file, opens no socket and starts no process. `KINDS` in
`tests.fuzz.attack` names the files.

    python -m tests.fuzz configs 600 [SEED]

tries one kind for ten minutes in a process of its own, in 4 GB of address space. Where that process hangs or crashes,
that is a finding, and another one goes on behind it.
"""
