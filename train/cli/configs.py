"""The config that `--config` names: a recipe of ours, a Python file, or another run."""

import importlib.util
import re
import sys
import traceback
import typing
from pathlib import Path
from typing import Any

from port.messages import did_you_mean
from port.paths import is_remote, user_path
from port.stores import readable
from port.text import read_json
from train import configs
from train.cli import mistakes
from train.cli.options import UsageError
from train.config import Config, Group

RUN = "config.json"  # of a run's work folder


def recipes() -> dict[str, Path]:
    """Our recipes by name, from wherever this package lies."""
    return {path.stem: path for path in sorted(Path(configs.__path__[0]).glob("*.py")) if path.stem != "__init__"}


def load_config(source: str) -> Config:
    """The config of a recipe, of a Python file's `get_config()`, or of a run: its work folder or its config.json.

    A folder with the name of a recipe is written `./NAME`.

    Raises:
        UsageError: there is none, it fails, or its values do not fit; with all of them, or file and line.
    """
    path = recipes().get(source) or of_run(source)
    path = path if path.is_file() else readable(source)
    if not path.is_file():
        known = recipes()
        raise UsageError(
            f"--config={source}: there is no such file, recipe or run.{did_you_mean(Path(source).stem, known)} "
            f"Recipes: {', '.join(known)}."
        )
    config = _of_run(path) if path.suffix == ".json" else _of_file(path)
    try:
        mistakes.check(config)
    except ValueError as error:
        raise UsageError(f"{path} has {error}") from None
    return config


def of_run(folder: str) -> Path:
    """The config.json of a run, by its work folder; it may be that there is none."""
    try:
        return readable(f"{folder.rstrip('/')}/{RUN}")
    except FileNotFoundError:
        return Path(folder, RUN)


def workdir(source: str) -> Path:
    """Where a run goes that is told no other place: runs/NAME; of another run's config beside that one, as NAME-2."""
    path = Path(source.partition("://")[2]) if is_remote(source) else user_path(source)
    path = path.parent if path.name == RUN else path
    if source in recipes() or not (path / RUN).is_file():
        return Path("runs") / path.stem
    here, there = Path.cwd(), path.absolute()
    path = there.relative_to(here) if here in there.parents else there
    name, number = re.fullmatch(r"(.*?)(?:-(\d+))?", path.name).groups()  # type: ignore[union-attr]  # always matches
    return path.with_name(f"{name}-{int(number or 1) + 1}")


def _of_file(path: Path) -> Config:
    """What `get_config()` of a Python file returns."""
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--config={path}: expected a recipe, a Python file, FILE.py, or a run.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
    beside = str(path.absolute().parent)
    sys.path.append(beside)  # as for a script; last, so that no file there is taken for one of ours
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UsageError(f"{path} has no function get_config(); it should return a train.config.Config.")
        config = module.get_config()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # whatever the file does wrong, the user wants its line and not ours
        raise UsageError(f"{_where(path, error)}: {type(error).__name__}: {_told(error)}") from None
    finally:
        sys.path.remove(beside)
    if not isinstance(config, Config):
        raise UsageError(f"get_config() of {path} returned {config!r:.80}; expected a train.config.Config.")
    return config


def _where(path: Path, error: BaseException) -> str:
    """The config file and the line at which it failed."""
    file = str(path.absolute())  # as the import machinery names it
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _told(error: BaseException) -> str:
    """What an error says; of a misspelt argument of a section, with the field that may have been meant."""
    text = str(error)
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text)
    if match is None:
        return text
    own = re.sub(r"\. Did you mean '\w+'\?$", "", text)  # Python 3.13 looks in this section alone
    hint = mistakes.did_you_mean(f"{match[1].lower()}.{match[2]}".removeprefix("config."))
    return f"{own}.{hint}" if hint else text


def _of_run(path: Path) -> Config:
    """The config that a run wrote; what it did not know yet has its default."""
    try:
        config: Config = filled(Config, read_json(path, dict, "Bring it back, or name another --config."))
        return config
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is not the config of a run: {error}") from None


def filled(kind: Any, values: Any) -> Any:
    """A section of what JSON holds. Lists become tuples; unknown names become attributes, which `check` tells of."""
    if not isinstance(values, dict) or kind is None:
        return values
    hints = typing.get_type_hints(kind)
    found = {
        name: tuple(filled(Group, row) for row in value) if isinstance(value, list) else filled(hints.get(name), value)
        for name, value in values.items()
    }
    made = kind(**{name: value for name, value in found.items() if name in hints})
    vars(made).update(found)
    return made
