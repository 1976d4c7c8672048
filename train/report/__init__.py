"""What a run tells: on the terminal, in files, as curves."""
