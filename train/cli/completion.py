"""The options of `nfjax train` for shells to complete: its flags, and a config's fields with their choices."""

from port.commands import Parser
from port.paths import user_path
from train.cli.configs import recipes
from train.cli.flags import flags


def options(parser: Parser) -> None:
    """Add the options to a parser."""
    parser.add_argument("--config", choices=sorted(recipes()))
    parser.add_argument("--workdir", type=user_path)
    for flag, field in flags().items():
        if flag not in ("--config", "--workdir"):
            spelt = flag if flag.startswith("--config.") else flag.replace("_", "-")
            parser.add_argument(spelt, choices=field.words or None)
