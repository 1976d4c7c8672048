"""What every command says in the same way: a name that may have been meant, and a mistake in one line."""

import difflib
import sys
from collections.abc import Callable, Iterable

MISTAKE = 2  # exit status of a command that could not do what it was asked


def nearest(name: str, known: Iterable[str], *, n: int = 2, cutoff: float = 0.6) -> list[str]:
    """Names that may have been meant by `name`, the most similar first."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], *, n: int = 2, cutoff: float = 0.6) -> str:
    """` Did you mean a or b?`, or nothing where no known name is similar."""
    close = nearest(name, known, n=n, cutoff=cutoff)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def exit_status(command: Callable[[], int]) -> int:
    """What `command()` returns; after a mistake of the user's, which is told in one line, `MISTAKE`."""
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
