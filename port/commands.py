"""Commands that are rows of a table: `nfjax COMMAND ...`. A command's modules are imported when it is called."""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from port.messages import MISTAKE, did_you_mean, exit_status


class Command(NamedTuple):
    """A row; functions are written "module:function".

    Attributes:
        help: one line.
        run: called with the parsed arguments if there are `options`, else with the list of arguments and the words
            that the command was called by. It returns the exit status.
        options: fills a `Parser`. Its module imports nothing that takes long.
        completes: fills a `Parser` with what a shell completes, for a command without `options`.
        extra: of `pip install 'nfjax[EXTRA]'`: what the command needs beside what is always installed.
    """

    help: str
    run: str
    options: str = ""
    completes: str = ""
    extra: str = ""


class Parser(argparse.ArgumentParser):
    """argparse's parser, which reports a mistake in one line, with the nearest option.

    Options that begin with one of `others` are left to another parser.

    Attributes:
        checks: called with the parsed arguments before the command's module is imported. They raise what the command
            would: a ValueError or an OSError for a name or a path that there is not.
    """

    def __init__(self, *, others: tuple[str, ...] = (), **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._others = others
        self.checks: list[Callable[[argparse.Namespace], object]] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options first: they often explain why an argument is missing."""
        known = self._option_string_actions
        for arg in sys.argv[1:] if args is None else args:
            option = arg.partition("=")[0]
            if option == "--":
                break
            read = option.startswith(self._others) or any(name.startswith(option) for name in known)
            if option.startswith("--") and not read:
                self.error(f"{arg}: there is no such option.{did_you_mean(option, known, n=1)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        said = message if message[-1] in ".?" else f"{message}."
        self.exit(MISTAKE, f"error: {said} `{self.prog} --help` explains the command.\n")

    def add_model(self, help: str) -> None:
        """The model that a command is about: an argument, or `--model` as where a command is about images."""
        self.add_argument("name", nargs="?", metavar="NAME", help=help)
        self.add_argument("--model", metavar="NAME", help="the same")

    def add_weights_key(self) -> None:
        """Which weights of a training checkpoint are meant."""
        help = "of a training checkpoint: state_dict for the raw weights, state_dict.model for names that begin so"
        self.add_argument("--weights-key", metavar="KEY", help=help)

    def hidden(self, option: str, *, instead_of: str) -> None:
        """Take an older spelling of an option, without showing it."""
        self._option_string_actions[option] = self._option_string_actions[instead_of]


def dispatch(
    commands: Mapping[str, Command], argv: Sequence[str], prog: str, *, about: str, version: str | None = None
) -> int:
    """Run the command of a table that `argv` names first, and return the exit status (see `exit_status`).

    Args:
        prog: what comes before the command's name on the command line.
        about: first lines of the help.
        version: what `--version` prints; None if there is no such option.
    """
    return exit_status(lambda: _dispatch(commands, argv, prog, about, version))


def _dispatch(commands: Mapping[str, Command], argv: Sequence[str], prog: str, about: str, version: str | None) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("-h", "--help", "help"):
        print(_help(commands, prog, about))
        return 0
    if name == "--version" and version is not None:
        print(version)
        return 0
    if name not in commands:
        kind = "option" if name.startswith("-") else "command"
        known = [*commands] if kind == "command" else ["--help", *(["--version"] if version else [])]
        said = f"{name}: there is no such {kind}.{did_you_mean(name, known)}" if name else "expected a command."
        print(f"error: {said} `{prog} --help` lists them.", file=sys.stderr)
        return MISTAKE
    command = commands[name]
    prog = f"{prog} {name}"
    return exit_status(lambda: _run(command, prog, rest), extra=command.extra, prog=prog)


def parser_of(command: Command, prog: str) -> Parser:
    """The parser of a command; of one without `options` for completion only."""
    parser = Parser(prog=prog, description=command.help)
    _find(command.options or command.completes)(parser)
    return parser


def _run(command: Command, prog: str, argv: Sequence[str]) -> int:
    # Options first: a mistake in them is told before the command's module is imported.
    if command.options:
        parser = parser_of(command, prog)
        args = parser.parse_args(argv)
        for check in parser.checks:
            check(args)
    arguments = [args] if command.options else [list(argv), prog]
    status: int = _find(command.run)(*arguments)
    return status


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _help(commands: Mapping[str, Command], prog: str, about: str) -> str:
    width = max(map(len, commands)) + 2
    rows = "\n".join(f"  {name:<{width}}{command.help}" for name, command in commands.items())
    return f"usage: {prog} COMMAND ...\n\n{about.strip()}\n\n{rows}"


def pixels(text: str) -> tuple[int, ...]:
    """A size as options take it: "224", or "96x64" for height and width."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected pixels as in 224 or 96x64")
    return tuple(map(int, text.lower().split("x")))


def weights(text: str) -> str | None:
    """The value of --weights; "none" is None."""
    return None if text.lower() == "none" else text


def one_model(args: argparse.Namespace) -> str:
    """The model that `Parser.add_model` was given; a ValueError if it is none or two."""
    given = [str(name) for name in (args.name, args.model) if name is not None]
    if len(given) != 1:
        found = f"; found {len(given)}: {' and '.join(given)}" if given else ""
        raise ValueError(f"expected the name of one model, as an argument or as --model{found}.")
    return given[0]
