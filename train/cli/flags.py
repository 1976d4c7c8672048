"""The command line: `python -m train.main --config=FILE.py [--workdir=DIR] [--config.FIELD=VALUE ...]`.

Overrides are checked against `train.config` before anything is loaded or computed, so that a mistake is told at once:
nothing here may import jax.
"""

import dataclasses
import difflib
import importlib.util
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from train.cli.fields import Field, check_types, fields, nearest, sections, settable
from train.config import Config

EXAMPLE = "train/configs/digits.py"
SETTLING_STEPS = 10  # before a trace of so many steps: compilation, and the first, slower ones


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps to trace: `stop - start` of them.

    Attributes:
        start: the first one, counted from 1 as in metrics.jsonl; None for a little after this process began.
        stop: the one after the last; the number of steps if `start` is None.
    """

    start: int | None
    stop: int

    def steps(self, done: int) -> range:
        """The steps to trace in a process that begins after `done` steps."""
        if self.start is None:
            first = done + 1 + SETTLING_STEPS
            return range(first, first + self.stop)
        return range(self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of it changes the result, so none of it is part of the config.

    Attributes:
        profile: steps to trace into WORKDIR/profile, or None.
        coordinator: HOST:PORT of process 0, or None to detect it.
        num_processes: of the run, or None to detect it.
        process_id: of this process, from 0, or None to detect it.
        distributed: "on" to wait for the other processes, "off" not to, "auto" to do so where a cluster is detected.
        verbosity: least severe messages of the libraries that are shown: "debug", "info", "warning" or "error".
    """

    profile: Profile | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    distributed: str = "auto"
    verbosity: str = "warning"


class UsageError(ValueError):
    """The command line, or the config file that it names, cannot be used."""


def parse(argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """The config, the work folder and the options of a command line.

    Ends the process like a command: `--help` prints the help, status 0; a mistake prints one message, status 2.

    Args:
        argv: `sys.argv`.
    """
    try:
        return read(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def read(argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """`parse`, without catching.

    Raises:
        UsageError: says what was given, what was expected, and what may have been meant.
        SystemExit: after `--help`.
    """
    overrides, others = _split(argv[1:])
    values = _flags()
    try:
        positional = values([argv[0], *(arg for arg in others if arg not in _HELP)])[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, _DOCS, n=1)
        meant = f" Did you mean --{near[0]}?" if near else _meant(error.flagname)
        raise UsageError(f"there is no flag --{error.flagname}.{meant}") from None
    except flags.Error as error:
        raise UsageError(str(error)) from None
    if positional:
        raise UsageError(f"unexpected arguments: {' '.join(positional)}; values are given as --config.FIELD=VALUE.")
    if _HELP & set(others):
        print(help_text(load(values.config) if values.config else Config()))
        raise SystemExit(0)
    checked = {path: _value(path, text) for path, text in overrides}
    options = _options(values)
    if not values.config:
        raise UsageError(f"--config=FILE.py is missing; an example is {EXAMPLE}.")
    config = _override(load(values.config), checked)
    return config, Path(values.workdir or Path("runs") / Path(values.config).stem), options


def load(file: str) -> Config:
    """What `get_config()` of a Python file returns.

    Raises:
        UsageError: if there is none, if it fails, or if it is not a `Config` of values of the right types.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"--config={file}: there is no such file; an example is {EXAMPLE}.")
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--config={file}: expected a Python file, FILE.py; an example is {EXAMPLE}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UsageError(f"{file} has no function get_config(); it should return a train.config.Config.")
        config = module.get_config()
    except UsageError:
        raise
    except Exception as error:  # whatever the file does wrong, the user wants its line and not ours
        raise UsageError(f"{_where(path, error)}: {type(error).__name__}: {error}{_meant_argument(error)}") from None
    if not isinstance(config, Config):
        raise UsageError(f"get_config() of {file} returned {config!r:.80}; expected a train.config.Config.")
    try:
        check_types(config)
    except ValueError as error:
        raise UsageError(f"get_config() of {file} returned {error}") from None
    return config


def help_text(config: Config) -> str:
    """Flags and fields with types, values and documentation; the values are those of `config`."""
    known = fields(config).values()
    flag_entries = [_entry(f"--{name}={kind}", doc) for name, (kind, doc) in _DOCS.items()]
    blocks = [_INTRODUCTION, "\n".join(["Flags:", *flag_entries]), _wrap(_ABOUT_FIELDS)]
    for name, kind in {"": Config, **sections()}.items():
        title = f"{name}: {(kind.__doc__ or '').partition(chr(10))[0]}" if name else "Of the run as a whole:"
        members = [field for field in known if field.path.rpartition(".")[0] == name]
        blocks.append("\n".join([title, *(_entry(_signature(field), field.doc) for field in members)]))
    return "\n\n".join(blocks)


_INTRODUCTION = f"""Train a model, or continue the run that the work folder holds.

  python -m train.main --config=FILE.py [--workdir=DIR] [--config.FIELD=VALUE ...]

For example:

  python -m train.main --config={EXAMPLE} --workdir=runs/quick \\
    --config.epochs=2 --config.optim.lr=0.05 --config.optim.clip_grad=none"""
_ABOUT_FIELDS = (
    "Fields, each set by --config.FIELD=VALUE. Written none, a field that allows it is None; the elements of a tuple "
    "are separated by commas, or written as in Python. After the type stands the value in the given --config, else the "
    "default."
)
_HELP = {"--help", "-help", "-h", "--helpfull"}
_DOCS = {
    "config": ("FILE.py", "Python file whose get_config() returns a train.config.Config."),
    "workdir": ("DIR", "folder of the run; runs/NAME of the config file unless given. A run found there is continued."),
    "profile": ("STEPS", "trace so many steps into WORKDIR/profile, or the steps START:STOP (without STOP)."),
    "coordinator": ("HOST:PORT", "process 0 of a run on several machines, where no cluster tells; with the next two."),
    "num_processes": ("N", "how many processes the run has."),
    "process_id": ("I", "which one this is, from 0."),
    "distributed": ("auto|on|off", "wait for the run's other processes; auto: where a cluster is detected."),
    "verbosity": ("debug|info|warning|error", "least severe messages of the libraries that are shown."),
}


def _flags() -> flags.FlagValues:
    """The flags that are not fields. They are kept apart from absl's global ones, so that `parse` can run twice."""
    values = flags.FlagValues()
    for name in ("config", "workdir", "profile", "coordinator"):
        flags.DEFINE_string(name, None, _DOCS[name][1], flag_values=values)
    for name, least in (("num_processes", 1), ("process_id", 0)):
        flags.DEFINE_integer(name, None, _DOCS[name][1], lower_bound=least, flag_values=values)
    for name, default in (("distributed", "auto"), ("verbosity", "warning")):
        kind, doc = _DOCS[name]
        flags.DEFINE_enum(name, default, kind.split("|"), doc, flag_values=values)
    return values


def _split(args: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Overrides as (path, text), in order, and the other arguments."""
    overrides, others = [], []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=(.*))?", arg, re.DOTALL)
        if match is None:
            others.append(arg)
            continue
        no, path, given, text = match.groups()
        field = fields().get(path)
        if given is None and field is not None and field.kind is bool:
            text = "false" if no else "true"
        elif no:
            raise UsageError(f"{arg}: --noconfig.FIELD is for fields that are true or false, without a value.")
        elif given is None and field is not None:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"{arg}: the value is missing; expected {field.expected}.")
            text = rest.pop(0)
        overrides.append((path, text or ""))
    return overrides, others


def _value(path: str, text: str) -> Any:
    """The value of one override."""
    field = fields().get(path)
    if field is None:
        members = [f"  --config.{f.path}: {f.type_name}" for f in fields().values() if f.path.startswith(f"{path}.")]
        if members:
            raise UsageError(f"--config.{path} is a section; set its fields one by one:\n" + "\n".join(members))
        raise UsageError(f"--config.{path}={text}: there is no such field.{_meant(path.removeprefix('config.'))}")
    if not settable(field.kind):
        raise UsageError(f"--config.{path} cannot be given here; set it in the config file.{_about(field)}")
    try:
        return field.parse(text)
    except ValueError:
        raise UsageError(f"--config.{path}={text}: expected {field.expected}.{_about(field)}") from None


def _about(field: Field) -> str:
    return f"\n  {field.path} ({field.type_name}): {field.doc}"


def _meant(path: str) -> str:
    found = [f"--config.{name}" for name in nearest(path)]
    if not found:
        return " `python -m train.main --help` lists them all."
    return f" Did you mean {' or '.join(found)}?"


def _override(config: Config, values: dict[str, Any]) -> Config:
    """A copy of a config with some fields changed, by ml_collections; the values have been checked."""
    # It has no way to write None, so that these are set afterwards.
    texts = [f"--config.{path}={value}" for path, value in values.items() if value is not None]
    argv, holder = ["", *texts], flags.FlagValues()
    config_flags.DEFINE_config_dataclass("config", config, flag_values=holder, sys_argv=argv)
    holder(argv)
    for path, value in values.items():
        if value is None:
            config_flags.config_path.set_value(path, holder.config, None)
    return holder.config


def _options(values: flags.FlagValues) -> Options:
    explicit = {name: getattr(values, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in explicit.items() if value is None]
    if 0 < len(missing) < len(explicit):
        raise UsageError(f"--coordinator, --num_processes, --process_id go together; missing: {', '.join(missing)}.")
    if not missing:
        if not re.fullmatch(r".+:\d+", values.coordinator):
            raise UsageError(f"--coordinator={values.coordinator}: expected HOST:PORT, for example localhost:12345.")
        if values.process_id >= values.num_processes:
            raise UsageError(
                f"--process_id={values.process_id}: expected 0 to {values.num_processes - 1}, below --num_processes."
            )
        if values.distributed == "off":
            raise UsageError("--distributed=off and --coordinator contradict each other; leave one of them out.")
    return Options(_profile(values.profile), distributed=values.distributed, verbosity=values.verbosity, **explicit)


def _profile(text: str | None) -> Profile | None:
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if match is None:
        raise UsageError(f"--profile={text}: expected a number of steps, or START:STOP.")
    start, stop = None if match[1] is None else int(match[1]), int(match[2])
    if start == 0 or stop <= (start or 0):
        raise UsageError(f"--profile={text}: no step lies in it; the first step is 1, and STOP itself is not traced.")
    return Profile(start, stop)


def _where(path: Path, error: Exception) -> str:
    """The config file and the line at which it failed."""
    file = str(path.absolute())  # as the import machinery names it
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _meant_argument(error: Exception) -> str:
    """The field that a misspelt argument of a section in a config file may have meant."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    found = nearest(f"{match[1].lower()}.{match[2]}".removeprefix("config.")) if match else []
    return f". Did you mean {' or '.join(found)}?" if found else ""


def _signature(field: Field) -> str:
    return f"{field.path} ({field.type_name}) = {field.value!r}".replace("= None", "= none")


def _entry(head: str, doc: str) -> str:
    return f"  {head}\n" + _wrap(doc, " " * 6)


def _wrap(text: str, indent: str = "") -> str:
    width = max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
    lines = textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), indent)
