"""Speed of nfjax beside timm's: `python -m benchmarks --help`."""
