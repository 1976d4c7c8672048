"""What a batch meets inside the compiled step."""
