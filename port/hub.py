"""The Hugging Face hub, through huggingface_hub: its cache, its offline mode, its mirrors.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what huggingface_hub says they mean.
"""

import re
import time
from pathlib import Path
from typing import Any

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    errors,
    get_session,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)

from port import messages
from port.files import read_config
from port.shards import read_index

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
ATTEMPTS, PATIENCE, PAUSE = 2, 4.0, 1.0  # to reach the hub at all; seconds for each, and between them
_COMMIT = re.compile("[0-9a-f]{40}")
_reached: set[str] = set()  # endpoints that have answered


class HubError(FileNotFoundError):
    """A file that the hub does not have, or that cannot be fetched now."""


def parse_hub_id(hub_id: str) -> tuple[str, str | None]:
    """`organisation/name@revision` as (repository, revision or None).

    Raises:
        ValueError: if it is not of that form.
    """
    repo, at, revision = hub_id.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")) or (at and not revision):
        raise ValueError(f"hub id {hub_id!r}; expected organisation/name or organisation/name@revision.")
    return repo, revision or None


def fetch(hub_id: str, filename: str) -> Path:
    """The local path of one file of a repository, downloaded unless the cache has it.

    Without a revision, a cached file is used without asking the hub; with one (`@main`, a tag) the hub is asked whether
    it moved, unless it is a commit hash, which cannot. huggingface_hub resumes a broken download within the call, in
    steps of 10 MiB; after one that it gave up, the next call starts over.

    Raises:
        EntryNotFoundError: the repository exists and has no such file.
        HubError: everything else: no such repository or revision, no access, no network, offline.
    """
    repo, revision = parse_hub_id(hub_id)
    if isinstance(cached := _in_cache(repo, revision, filename), str):
        return Path(cached)
    try:
        reach(hf_hub_url(repo, filename, revision=revision))
    except (errors.HTTPError, OSError) as error:
        raise _unreachable(filename, repo, error) from error
    try:
        return Path(hf_hub_download(repo, filename, revision=revision))
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but it only means: not cached
        if try_to_load_from_cache(repo, filename, revision=revision) is _CACHED_NO_EXIST:
            raise errors.EntryNotFoundError(f"{repo} had no {filename} when the hub was last asked.") from error
        raise _unreachable(filename, repo, error) from error
    except errors.EntryNotFoundError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(f"{repo} is gated: accept its terms on the hub and log in (`hf auth login`).") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}; leave it out for the newest.") from error
    except errors.RepositoryNotFoundError as error:
        hint = "check the name, or log in (`hf auth login`)."
        raise HubError(f"the hub has no repository {repo!r}, or it is private: {hint}") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:  # a broken connection is an HTTPError, but no OSError
        if isinstance(error, OSError) and error.filename:
            hint = "HF_HOME names another folder for the cache."
            raise HubError(f"cannot keep {filename} of {repo}: {error}. {hint}") from error
        if type(error) not in (RuntimeError, ConnectionError):
            raise HubError(f"cannot fetch {filename} of {repo} from the hub: {error}") from error
        # From hf_xet, which huggingface_hub downloads large files with; the second from some of its versions.
        hint = "HF_HUB_DISABLE_XET=1 fetches it over plain HTTP."
        raise HubError(f"cannot fetch {filename} of {repo}: {error}. {hint}") from error


def reach(url: str) -> None:
    """Raise what goes wrong, an HTTPError or an OSError, unless the hub answers, whatever it answers.

    huggingface_hub itself tries for half a minute, and says so each time.
    """
    if constants.ENDPOINT in _reached or constants.HF_HUB_OFFLINE:
        return
    for attempt in range(ATTEMPTS):
        try:
            get_session().head(url, timeout=PATIENCE)
        except (errors.HTTPError, OSError):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE)
        else:
            _reached.add(constants.ENDPOINT)
            return


def _unreachable(filename: str, repo: str, error: Exception) -> HubError:
    return HubError(
        f"{filename} of {repo} is not in the cache and the hub cannot be reached ({cause(error)}). Check the network, "
        f"HF_ENDPOINT and HF_HUB_OFFLINE, or give a file: {messages.option('weights', 'FILE')}."
    )


def _in_cache(repo: str, revision: str | None, filename: str) -> object:
    """What the cache knows without asking the hub: a path, _CACHED_NO_EXIST, or None for neither."""
    if revision is None or _COMMIT.fullmatch(revision):
        return try_to_load_from_cache(repo, filename, revision=revision)
    return None


def fetch_config(hub_id: str) -> tuple[dict[str, Any], str]:
    """The config.json of a repository, as timm writes them, and the id pinned to the commit that it is of.

    Raises:
        WeightsFileError: if it is not JSON, or names no architecture.
    """
    try:
        path = fetch(hub_id, "config.json")
    except errors.EntryNotFoundError as error:
        raise HubError(f"{hub_id} has no config.json: it is not a timm model repository.") from error
    return read_config(path), _pinned(hub_id, path)


def fetch_weights(hub_id: str) -> Path:
    """The weights of a repository: safetensors, sharded safetensors, or the older pickle, in this order."""
    repo, revision = parse_hub_id(hub_id)
    # Files known to be absent come last, so that weights in the cache need no request.
    for filename in sorted(WEIGHT_FILES, key=lambda f: _in_cache(repo, revision, f) is _CACHED_NO_EXIST):
        try:
            path = fetch(hub_id, filename)
        except errors.EntryNotFoundError:
            continue
        if filename.endswith(".index.json"):
            _fetch_shards(repo, path)
        return path
    at = f" at {revision}" if revision else ""
    raise HubError(f"{repo}{at} holds no weights; expected one of {', '.join(WEIGHT_FILES)}.")


def _fetch_shards(repo: str, index: Path) -> None:
    """Download the files that an index names to where it is."""
    for shard in sorted(set(read_index(index).values())):
        try:
            fetch(_pinned(repo, index), shard)
        except errors.EntryNotFoundError as error:
            raise HubError(f"{repo} has no file {shard!r}, which its {index.name} names.") from error


def _pinned(hub_id: str, path: Path) -> str:
    """The id at the commit that a file in the cache is of: the cache names its folders after commits."""
    return f"{parse_hub_id(hub_id)[0]}@{path.parent.name}"


def cause(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return f"{type(root).__name__}: {root}".splitlines()[0]
