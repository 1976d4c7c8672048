"""The subcommands of `python -m nfjax`: each module has `add`, which makes its parsers."""
