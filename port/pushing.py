"""Files to a repository of the Hugging Face hub, in one commit."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, errors, get_token

from port.hub import HubError, cause, parse_hub_id, reach
from port.text import one_line

R = TypeVar("R")


def push(
    repo_id: str,
    files: Mapping[str, Path],
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Make one commit of files, by their names there, and return its address.

    The repository is made if there is none, and a branch too. Other files of it stay.

    Raises:
        ValueError: `repo_id` is not of the form user/name.
        HubError: offline, out of reach, no token or one that may not write, or somebody else's commit came between.
    """
    parsed, at = parse_hub_id(repo_id)
    if at is not None:
        raise ValueError(f"{repo_id!r}: give the branch apart, as revision={at!r}.")
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so that nothing can be pushed; unset it.")
    token = token or get_token()
    if not token:
        raise HubError(
            "no token: log in with `hf auth login`, or set HF_TOKEN; it must be one that may write "
            "(https://huggingface.co/settings/tokens)."
        )
    api = HfApi(token=token)
    try:
        reach(constants.ENDPOINT)
    except (errors.HTTPError, OSError) as error:
        where = f"the hub, {constants.ENDPOINT}, cannot be reached ({cause(error)})"
        raise HubError(f"{where}. Check the network and HF_ENDPOINT.") from error
    _told(parsed, lambda: api.create_repo(parsed, private=private or None, exist_ok=True))
    if revision is not None:
        _told(parsed, lambda: api.create_branch(parsed, branch=revision, exist_ok=True))

    def commit() -> str:
        added = [CommitOperationAdd(name, path) for name, path in files.items()]
        return str(api.create_commit(parsed, added, commit_message=message, revision=revision).commit_url)

    return _told(parsed, lambda: _with_or_without_xet(commit))


def _with_or_without_xet(act: Callable[[], R]) -> R:
    """What `act` returns; of a hub without Xet storage, such as a mirror, large files go by plain HTTP.

    Where hf_xet is installed, the client asks for its storage whether the hub has it or not.
    """
    try:
        return act()
    except (OSError, RuntimeError) as error:
        if constants.HF_HUB_DISABLE_XET or not re.search(r"\b404\b.*/xet-write-token/", str(error)):
            raise
    constants.HF_HUB_DISABLE_XET = True
    try:
        return act()
    finally:
        constants.HF_HUB_DISABLE_XET = False


def _told(repo: str, act: Callable[[], R]) -> R:
    """What `act` returns, with a mistake in one sentence."""
    try:
        return act()
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = one_line(error.server_message or str(error).splitlines()[0])
        remedy = REMEDIES.get(status, "Try again later.")
        raise HubError(f"{repo} was not pushed: {said.rstrip('.')} ({status}). {remedy}") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:
        raise HubError(
            f"{repo} was not pushed: {cause(error).rstrip('.')}. Push again; what has arrived is not sent twice."
        ) from error


REMEDIES = {
    400: "The hub refuses what was sent; its own words say what.",
    401: "The token is not valid: `hf auth login` makes another.",
    403: "The token may not write there: https://huggingface.co/settings/tokens makes one that may.",
    404: "There is no such repository, or the token may not see it.",
    409: "Somebody else has changed it meanwhile: look at their commit, and push again.",
    412: "Somebody else has changed it meanwhile: look at their commit, and push again.",
    413: "It is more than the hub takes.",
}
