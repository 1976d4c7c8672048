"""What a run keeps of itself: which checkpoints, their files, checksums, averages."""
