"""The persistent compilation cache: who turns it on and off, what survives in it, and that it changes no bit."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfjax import cache

ROOT = Path(__file__).parent.parent.parent
ENABLE = "from nfjax import cache; print(cache.enable())"
OPTIONS = ("compilation_cache_dir", "compilation_cache_max_size", "persistent_cache_min_compile_time_secs")
SHOW = f"import jax; print(*[getattr(jax.config, 'jax_' + option) for option in {OPTIONS}])"
ALWAYS = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # programs are kept that are compiled soon, too
NOTHING = "None -1 1.0"  # what jax itself has

# Everything is compiled after the first program, which ran without a cache.
PROGRAM = """
import sys, jax, jax.numpy as jnp, numpy as np
print(float(jnp.arange(3.0).sum()))
import nfjax
from nfjax import cache
from nfjax.params import merge, split
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
model = nfjax.load("test_nfnet", weights=None, features_only=True, out_indices=[1])  # the first stage
x = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
(features,) = nfjax.compile(model, x)(x)
graphdef, params = split(model)

def step(params, momentum, x):
    grads = jax.grad(lambda p: jnp.square(merge(graphdef, p)(x)[0]).mean())(params)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
    return jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum

params = jax.tree.map(jnp.copy, params)
state = params, jax.tree.map(jnp.zeros_like, params)
step = jax.jit(step, donate_argnums=(0, 1))
for _ in range(2):
    before, state = state, step(*state, x)
    assert all(a.is_deleted() for a in jax.tree.leaves(before))
hits, misses = (events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses"))
np.savez(sys.argv[1], features=features, **{f"p{i}": a for i, a in enumerate(jax.tree.leaves(state))})
print(hits, misses)
"""


def python(code, *arguments, home, **environment):
    """Standard output and error of a program in a process without the settings of the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "NFJAX_", "XDG_"))}
    kept |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    result = subprocess.run(command, env=kept, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), result.stderr


def test_importing_changes_nothing(tmp_path):
    """Of jax nothing is set, and what is not always needed is not imported."""
    heavy = ("torch", "timm", "tensorflow", "orbax", "grain", "matplotlib", "huggingface_hub", "pyarrow")
    code = f"import nfjax, sys; print(sorted({set(heavy)} & set(sys.modules))); {SHOW}"
    out, err = python(code, home=tmp_path)
    assert out == ["[]", NOTHING]
    assert err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", [{}, {"XDG_CACHE_HOME": "xdg"}, {"NFJAX_CACHE": "mine"}, {"NFJAX_CACHE": "~/own"}])
def test_where_it_is(variable, tmp_path):
    variable = {k: v if v.startswith("~") else str(tmp_path / v) for k, v in variable.items()}
    (named,) = [*variable.values()] or [str(tmp_path / ".cache")]
    folder = named.replace("~", str(tmp_path)) if "NFJAX_CACHE" in variable else f"{named}/nfjax/jax"
    out, err = python(f"{ENABLE}; {SHOW}", home=tmp_path, **variable)
    assert out == [folder, f"{folder} {2**30} 0.1"]
    assert err == ""
    assert Path(folder).stat().st_mode & 0o077 == 0  # what is in it will be run


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ({"NFJAX_CACHE": "0"}, NOTHING),
        ({"JAX_COMPILATION_CACHE_DIR": "/nowhere"}, "/nowhere -1 1.0"),
        ({"JAX_COMPILATION_CACHE_DIR": ""}, " -1 1.0"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "0", "NFJAX_CACHE": "/nowhere"}, NOTHING),
    ],
)
def test_who_has_decided_otherwise(variable, expected, tmp_path):
    out, err = python(f"{ENABLE}; {SHOW}", home=tmp_path, **variable)
    assert out == ["None", expected]
    assert err == ""
    assert list(tmp_path.iterdir()) == []


def test_jaxs_own_options_win(tmp_path):
    code = f"import jax; jax.config.update('jax_compilation_cache_dir', '/mine'); {ENABLE}; {SHOW}"
    assert python(code, home=tmp_path)[0] == ["None", "/mine -1 1.0"]
    environment = {"JAX_COMPILATION_CACHE_MAX_SIZE": "-1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2"}
    folder = tmp_path / ".cache/nfjax/jax"
    assert python(f"{ENABLE}; {SHOW}", home=tmp_path, **environment)[0] == [str(folder), f"{folder} -1 2.0"]


def test_a_folder_that_cannot_be_used_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    out, err = python(f"{ENABLE}; print(cache.enable()); {SHOW}", home=tmp_path, NFJAX_CACHE=str(tmp_path / "file/in"))
    assert out == ["None", "None", NOTHING]
    assert re.fullmatch(
        r"compiled programs are not kept .*/file/in cannot be used \(.*\); set NFJAX_CACHE to .*\n", err
    )


def test_the_same_bits_and_donation(tmp_path):
    """Inference and training steps of a process that compiles, of one that loads, and of one without a cache."""
    runs = {}
    for name, switch in [("compiled", {}), ("loaded", {}), ("without", {"NFJAX_CACHE": "0"})]:
        out, err = python(PROGRAM, str(tmp_path / f"{name}.npz"), home=tmp_path, **ALWAYS, **switch)
        assert err == ""
        runs[name] = [int(count) for count in out[-1].split()]
    assert runs["compiled"][0] == 0 < runs["compiled"][1]
    assert runs["loaded"] == [runs["compiled"][1], 0]
    assert runs["without"] == [0, 0]
    expected, *others = ((tmp_path / f"{name}.npz").read_bytes() for name in runs)
    assert all(other == expected for other in others)


def test_what_was_cut_off_is_removed(tmp_path):
    """A process that is killed while it writes leaves an entry that jax would warn of in every later process."""
    code = f"{ENABLE}; import jax; jax.jit(lambda x: x + 1)(1.0)"
    folder = tmp_path / ".cache/nfjax/jax"
    python(code, home=tmp_path, **ALWAYS)
    entries = sorted(folder.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(entry.name.replace("-cache", "-atime")).unlink()
    assert python(code, home=tmp_path, **ALWAYS)[1] == ""
    assert sorted(folder.glob("*-cache")) == entries
    assert all(entry.stat().st_size > 100 for entry in entries)


def test_without_a_maximal_size_all_is_kept(tmp_path):
    """JAX writes no stamps then, so that a missing one tells nothing."""
    code = f"{ENABLE}; import jax; jax.jit(lambda x: x + 1)(1.0)"
    always = ALWAYS | {"JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}
    python(code, home=tmp_path, **always)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache/nfjax/jax").glob("*-cache")}
    assert written
    python(code, home=tmp_path, **always)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache/nfjax/jax").glob("*-cache")} == written


def test_names_are_those_of_the_installed_jax(tmp_path):
    """Or nothing that was cut off would be removed, or one process would not wait for another."""
    python(f"{ENABLE}; import jax; jax.jit(lambda x: x + 1)(1.0)", home=tmp_path, **ALWAYS)
    files = [path.name for path in (tmp_path / ".cache/nfjax/jax").iterdir()]
    assert cache._stamps()
    assert {re.sub(r"^[^.].*-", "-", name) for name in files} == {cache.LOCK, cache.ENTRY, cache.STAMP, cache.TAG}
    entries = [name for name in files if name.endswith(cache.ENTRY)]
    assert entries
    assert all(map(cache.NAME.fullmatch, entries))


OURS = f"jit_f-{'0123456789abcdef' * 4}-cache"  # a name as jax gives it


def test_files_of_others_stay(tmp_path):
    """In a folder of ours what jax would not have written; in any other folder everything."""
    cache._prepare(tmp_path / "ours", stamped=True)
    assert (tmp_path / "ours" / cache.TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tmp_path / "others").mkdir()
    names = (OURS, "web-cache", "notes-cache", OURS.replace("0", "x"))
    for folder in ("ours", "others"):
        for name in names:
            (tmp_path / folder / name).write_text("")
        for _ in range(2):
            cache._prepare(tmp_path / folder, stamped=True)
    assert {path.name for path in (tmp_path / "ours").glob("*-cache")} == {*names[1:]}
    assert {path.name for path in (tmp_path / "others").glob("*-cache")} == {*names}
    assert not (tmp_path / "others" / cache.TAG).exists()


def test_a_folder_of_another_user_that_everybody_writes_to_is_not_used(tmp_path, monkeypatch, caplog):
    """Who can put a program there has it run."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    cache._prepare(folder, stamped=True)  # which only the other user writes to
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="another user's, which everybody can write to"):
        cache._prepare(folder, stamped=True)
    monkeypatch.setenv("NFJAX_CACHE", str(folder))
    monkeypatch.setattr(type(cache.jax.config), "jax_compilation_cache_dir", None, raising=False)
    assert cache.enable.__wrapped__() is None
    assert re.fullmatch(r"compiled programs are not kept .*/shared cannot be used \(another .*", caplog.messages[0])


def test_another_jax_loses_nothing(tmp_path, monkeypatch):
    """Whose entries are complete without a stamp."""
    monkeypatch.setattr("jax._src.lru_cache._ATIME_SUFFIX", "-used")
    assert not cache._stamps()
    (tmp_path / "program-cache").write_text("")
    cache._prepare(tmp_path, stamped=cache._stamps())
    assert (tmp_path / "program-cache").exists()


def test_many_processes_at_once(tmp_path):
    """None of them reads what another one has not finished writing; all of them say the same."""
    code = f"{ENABLE}; import jax; print(*[jax.jit(lambda x, i=i: x * i + 1)(2.0) for i in range(20)])"
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: python(code, home=tmp_path, **ALWAYS), range(3)))
    assert found == [found[0]] * 3
    assert found[0][1] == ""
