"""`nfjax completion`: a script that lets a shell complete commands, options and names of models."""

import argparse
from typing import Any

from nfjax.cli.table import COMMANDS
from port.commands import Parser, parser_of
from port.paths import user_path

# shtab takes only --option VALUE; bash hands over --option=VALUE as three words.
EQUALS = """
_nfjax() {
  local word words=()
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    [[ $word == "=" ]] || words+=("$word")
  done
  [[ ${COMP_WORDS[COMP_CWORD]} == "=" ]] && words+=("")
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  _shtab_nfjax "$@"
}
complete -o bashdefault -F _nfjax nfjax
"""
FILES = ("weights", "image", "images", "source", "folder", "data")  # arguments that may name something else as well


def options(parser: Parser) -> None:
    parser.description = "Print what a shell needs to complete commands, options, and names of models."
    parser.epilog = """to have it in each new shell:
  %(prog)s bash > ~/.local/share/bash-completion/completions/nfjax
  %(prog)s zsh > ~/.zfunc/_nfjax        (~/.zfunc in $fpath, before compinit)"""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(whole_parser(shtab.FILE), args.shell) + (EQUALS if args.shell == "bash" else ""))
    return 0


def whole_parser(file: Any) -> argparse.ArgumentParser:
    """All commands as one parser, in which `file` is the attribute `complete` of arguments that are files."""
    from nfjax.models.registry import list_models

    parser = argparse.ArgumentParser(prog="nfjax")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        try:
            filled = parser_of(command, f"nfjax {name}")
        except ModuleNotFoundError:  # of an extra that is not installed: such a command is completed by its name
            commands.add_parser(name, help=command.help)
            continue
        # With `parents` a parser takes the arguments of another one.
        sub = commands.add_parser(name, help=command.help, parents=[filled], add_help=False)
        for action in sub._actions:
            if action.dest in ("model", "name", "names", "pattern"):
                action.choices = list_models()
            elif action.type is user_path or action.dest in FILES:
                action.complete = file  # type: ignore[attr-defined]
    return parser
