"""The command line: what it sets, and what a mistake is answered with."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from train.cli import configs
from train.cli.fields import attribute_docs, fields
from train.cli.flags import parse, read_command
from train.cli.mistakes import check
from train.cli.options import Options, Profile
from train.config import Augment, Config, Data, Group, Loss, Mix, Model, Optim

DIGITS = "--config=train/configs/digits.py"
ROOT = Path(__file__).parents[3]
SECTIONS = [kind for kind in typing.get_type_hints(Config).values() if dataclasses.is_dataclass(kind)]
DATACLASSES = [Config, *SECTIONS, Group]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def refused(capsys, *arguments):
    """The message of a command that is refused."""
    with pytest.raises(SystemExit) as stopped:
        parse(["main.py", *arguments])
    output = capsys.readouterr()
    assert (stopped.value.code, output.out) == (2, "")
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_every_field_is_documented_and_every_documented_field_exists(kind):
    sections = {name for name, hint in typing.get_type_hints(kind).items() if dataclasses.is_dataclass(hint)}
    assert list(attribute_docs(kind)) == [
        field.name for field in dataclasses.fields(kind) if field.name not in sections
    ]
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # a section's own text stands for it


def test_documentation_is_read_over_several_lines():
    docs = attribute_docs(Optim)
    assert docs["lr"] == "peak learning rate."
    assert docs["lr_base_size"].startswith("batch size that `lr` is meant for. The batch size of the run scales it:")
    assert docs["lr_base_size"].endswith("None to take `lr` as it is.")


def test_choices_are_the_tables_of_the_code():
    """Each `Literal` beside what the code knows."""
    from nfjax.augment.crops import CROP_MODES as TRAIN_CROP_MODES
    from nfjax.images import INTERPOLATIONS
    from nfjax.transforms import CROP_MODES
    from train.distill.losses import KINDS as TEACHINGS
    from train.optim.clip import MODES
    from train.optim.optimizer import KINDS
    from train.optim.parameters import WEIGHT_DECAY
    from train.optim.schedules import CYCLES

    tables = {
        "model.dtype": ("float32", "bfloat16", "float64"),
        "data.in_chans": (1, 3),
        "data.crop_mode": CROP_MODES,
        "data.interpolation": INTERPOLATIONS,
        "augment.train_crop_mode": TRAIN_CROP_MODES,
        "augment.interpolation": ("random", *INTERPOLATIONS),
        "mix.mixup_mode": ("batch", "pair", "elem"),  # test_mix.py goes through them
        "mix.remode": ("const", "rand", "pixel"),  # likewise
        "loss.name": ("ce", "bce", "asl"),
        "distill.kind": TEACHINGS,
        "optim.name": KINDS,
        "optim.decay_rule": WEIGHT_DECAY,
        "optim.clip_mode": MODES,
        "schedule.name": (*CYCLES, "step", "multistep", "wsd", "plateau", "constant"),  # likewise: test_schedules.py
        "early_stop.metric": ("top1", "top5", "map", "f1", "loss"),
        "checkpoint.metric": ("top1", "top5", "map", "f1", "loss"),
    }
    assert {path: field.choices for path, field in fields().items() if field.choices} == {
        path: tuple(table) for path, table in tables.items()
    }


def other(field):
    """Another value than the default, and how it is written."""
    if field.choices:
        return field.choices[-1], str(field.choices[-1])
    return {
        "int": (7, "7"),
        "int or none": (7, "7"),
        "float": (0.1234567890123456, "0.1234567890123456"),
        "float or none": (2e-05, "2e-5"),
        "bool": (not field.value, str(not field.value).lower()),
        "str": ("a=b, c", "a=b, c"),
        "str or none": ("gs://bucket/x", "gs://bucket/x"),
        "float,float": ((0.9, 0.95), "0.9,0.95"),
        "float,float or none": ((0.9, 0.95), "0.9,0.95"),
        "float,...": ((0.5,), "0.5"),
        "float,... or none": ((0.5, 0.25, 1.0), "0.5,0.25,1"),
        "str,...": (("stem/.*", "head/.*"), "stem/.*,head/.*"),
    }[field.type_name]


@pytest.mark.parametrize("path", [path for path, field in fields().items() if field.settable])
def test_each_field_can_be_set(path):
    value, text = other(fields()[path])
    config = read_command(["main.py", DIGITS, f"--config.{path}={text}"])[0]
    given = fields(config)[path].value
    assert (given, type(given)) == (value, type(value))
    default = fields(read_command(["main.py", DIGITS])[0])
    assert {p: f.value for p, f in fields(config).items() if p != path} == {
        p: f.value for p, f in default.items() if p != path
    }


def test_none_is_none(tmp_path):
    path = tmp_path / "full.py"
    path.write_text(
        "from train.config import *\n"
        "def get_config():\n"
        "    return Config(model=Model(weights='w', num_classes=3), optim=Optim(betas=(0.8, 0.9), clip_grad=0.1))\n"
    )
    optional = ["model.weights", "model.num_classes", "optim.betas", "optim.clip_grad"]
    config = read_command(["main.py", f"--config={path}", *(f"--config.{name}=none" for name in optional)])[0]
    assert [fields(config)[name].value for name in optional] == [None] * 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("('a,b',)", ("a,b",)),
        ("stem/(a|b)", ("stem/(a|b)",)),
        ("", ()),
        ("()", ()),
        ('["x", "y"]', ("x", "y")),
        ("{{}}", ("{{}}",)),
    ],
)
def test_tuples_of_texts(text, value):
    assert read_command(["main.py", DIGITS, f"--config.optim.freeze={text}"])[0].optim.freeze == value


def test_other_spellings():
    command = (
        "main.py --config.optim.lr 1 -config.mesh.data=-1 --config.ema.warmup --noconfig.log.tensorboard "
        "--config train/configs/digits.py --config.optim.lr=2"
    )
    config, workdir, options = read_command(command.split())
    assert (config.optim.lr, config.mesh.data, config.ema.warmup) == (2.0, -1, True)  # the last one counts
    assert not config.log.tensorboard
    assert (workdir, options) == (Path("runs/digits"), Options())


def test_options():
    arguments = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=1", "--distributed=on"]
    _, workdir, options = read_command(
        ["main.py", DIGITS, "--workdir=w", "--profile=30:33", "--verbosity=info", *arguments]
    )
    assert workdir == Path("w")
    assert options == Options(Profile(30, 33), "localhost:1234", 2, 1, "on", "info")
    assert options.profile.steps(100) == range(30, 33)
    counted = read_command(["main.py", DIGITS, "--profile=3"])[2].profile.steps(100)
    assert len(counted) == 3
    assert counted.start > 101  # the first step compiles


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.lrr=1", "--config.optim.lrr=1: there is no such field. Did you mean --config.optim.lr?"),
        ("--config.lr=1", "there is no such field. Did you mean --config.optim.lr?"),
        ("--config.optim.warmup_epochs=1", "Did you mean --config.schedule.warmup_epochs?"),
        ("--config.optim.lr.peak=1", "Did you mean --config.optim.lr?"),
        ("--config.qwertyuiop=1", "there is no such field. `nfjax train --help` lists them all."),
        ("--optim.lr=1", "there is no flag --optim.lr. Did you mean --config.optim.lr?"),
        ("--wrkdir=x", "there is no flag --wrkdir. Did you mean --workdir?"),
        ("--config.data=3", "--config.data is a section; set its fields one by one:\n  --config.data.name: str\n"),
        (
            "--config.optim.lr=fast",
            "--config.optim.lr=fast: expected a finite number, at least 0.\n  optim.lr (float): peak",
        ),
        ("--config.optim.lr=nan", "--config.optim.lr=nan: expected a finite number, at least 0."),
        ("--config.optim.lr=none", "--config.optim.lr=none: expected a finite number, at least 0."),
        ("--config.optim.lr=", "--config.optim.lr=: expected a finite number, at least 0."),
        ("--config.optim.lr", "--config.optim.lr: the value is missing; expected a finite number, at least 0."),
        ("--config.epochs=1.5", "--config.epochs=1.5: expected an integer, at least 1.\n"),
        ("--config.ema.warmup=maybe", "--config.ema.warmup=maybe: expected true or false.\n"),
        (
            "--config.optim.betas=0.9",
            "--config.optim.betas=0.9: expected 2 numbers with commas between, each at least 0 and less than 1, or "
            "none.\n  optim.betas (float,float or none): decay",
        ),
        (
            "--config.optim.betas=0.9,x",
            "expected 2 numbers with commas between, each at least 0 and less than 1, or none.",
        ),
        ("--config.optim.betas=0.9,1", "--config.optim.betas=0.9,1: expected 2 numbers with commas between, each at"),
        ("--config.optim.lr=-1", "--config.optim.lr=-1: expected a finite number, at least 0."),
        ("--config.data.crop_mode=middle", "expected one of center, squash, border, or none."),
        ("--config.data.in_chans=2", "--config.data.in_chans=2: expected one of 1, 3, or none."),
        ("--config.loss.name=bcee", "--config.loss.name=bcee: expected one of ce, bce, asl."),
        ("--config.optim.groups=x", "--config.optim.groups cannot be given here; set it in the config file."),
        ("--noconfig.optim.lr", "--noconfig.FIELD is for fields that are true or false"),
        ("more", "unexpected arguments: more;"),
        ("--profile=first", "--profile=first: expected a number of steps, or START:STOP."),
        ("--profile=5:5", "--profile=5:5: no step lies in it;"),
        ("--num_processes=two", "--num_processes=two: expected an integer, at least 1, or none."),
        ("--workdir", "--workdir: the value is missing; expected text, or none."),
        ("--distributed=maybe", "--distributed=maybe: expected one of auto, on, off."),
        ("--process_id=0", "go together; missing: --coordinator, --num_processes."),
    ],
)
def test_mistakes(capsys, argument, message):
    assert message in refused(capsys, DIGITS, argument)


def test_mistakes_in_the_flags_of_several_processes(capsys):
    processes = ["--num_processes=2", "--process_id=2"]
    assert "expected 0 to 1" in refused(capsys, DIGITS, "--coordinator=host:1", *processes)
    assert "expected HOST:PORT" in refused(capsys, DIGITS, "--coordinator=host", *processes)
    off = ["--coordinator=host:1", "--num_processes=1", "--process_id=0", "--distributed=off"]
    assert "contradict" in refused(capsys, DIGITS, *off)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file, recipe or run. Recipes: digits, dm_nfnet_f0, eca_nfnet_l0, "),
        ("lr = 1\n", "c.py has no function get_config(); it should return a train.config.Config."),
        ("def get_config(): return {}\n", "get_config() of {path} returned {{}}; expected a train.config.Config."),
        ("def get_config(): return\n", "returned None; expected a train.config.Config."),
        ("def get_config(:\n", "c.py, line 1: SyntaxError: "),
        ("import nothing_of_that_name\n", "c.py, line 1: ModuleNotFoundError: No module named"),
        (
            "from train.config import *\n\ndef get_config(): return Config(optim=Optim(lrr=1))\n",
            "c.py, line 3: TypeError: Optim.__init__() got an unexpected keyword argument 'lrr'. "
            "Did you mean optim.lr?\n",
        ),
        (
            "from train.config import *\n\ndef get_config():\n  c = Config()\n  c.optim.lrr = 1\n  return c\n",
            "  optim.lrr: there is no such field. Did you mean optim.lr?\n",
        ),
        (
            "from train.config import *\n\n"
            "def get_config(): return Config(optim=Optim(groups=(Group('a', -1), Group(3))))\n",
            "  optim.groups[0].lr_scale=-1: expected a finite number, at least 0\n"
            "  optim.groups[1].pattern=3: expected text",
        ),
        (
            "from train.config import *\n"
            "def get_config(): return Config(epochs='3', optim=Optim(betas=[1, 2]), data=3)\n",
            "  epochs='3': expected an integer, at least 1\n"
            "  data=3: expected a train.config.Data\n"
            "  optim.betas=[1, 2]: expected 2 ",
        ),
    ],
)
def test_mistakes_in_the_config_file(capsys, tmp_path, text, message):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(text)
    assert message.format(path=path) in refused(capsys, f"--config={path}")


def test_what_may_have_been_meant_is_said_once():
    """Python 3.13 says it too."""
    error = TypeError("Optim.__init__() got an unexpected keyword argument 'lrr'. Did you mean 'lr'?")
    assert configs._told(error).endswith("keyword argument 'lrr'. Did you mean optim.lr?")


def test_no_config_file(capsys):
    assert "--config is missing: a recipe (digits, dm_nfnet_f0, " in refused(capsys)


def test_a_run_goes_on_as_it_began(tmp_path, capsys):
    config = {"seed": 3, "data": {"batch_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, workdir, _ = read_command(["train", f"--workdir={tmp_path}", "--config.epochs=2"])
    assert (found.seed, found.data.batch_size, found.epochs, workdir) == (3, 8, 2, tmp_path)
    assert "--config is missing" in refused(capsys, f"--workdir={tmp_path / 'other'}")


def test_all_mistakes_are_told_at_once(capsys):
    message = refused(capsys, "--config.lr=1", DIGITS, "--config.epochs=0", "--wrkdir", "x", "--config.loss.name=mse")
    told = [line for line in message.splitlines() if not line.startswith("  ")]
    assert [line.removeprefix("error: ").partition(":")[0].partition(".  ")[0] for line in told] == [
        "--config.lr=1",
        "there is no flag --wrkdir. Did you mean --workdir?",
        "--config.epochs=0",
        "--config.loss.name=mse",
    ]


def test_configs_made_in_python_are_checked():
    config = Config(epochs=0, augment=Augment(hflip=2), data=Data(mean=("a",)), mix=Mix(cutmix_minmax=(0.0, 1.0)))
    config.loss = Loss(name="mse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values that do not fit") as caught:
        check(config)
    assert [line.partition(": ")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "epochs=0", "data.mean=('a',)", "augment.hflip=2", "mix.cutmix_minmax=(0.0, 1.0)", "loss.name='mse'",
    ]  # fmt: skip
    for value in (True, 1.0, "1"):
        with pytest.raises(ValueError, match="seed="):
            check(Config(seed=value))
    check(Config(optim=Optim(lr=1)))  # an int is a number


def told_in_help(capsys, *arguments):
    """The help, without its frames, as one line."""
    with pytest.raises(SystemExit) as stopped:
        parse(["main.py", "--help", *arguments])
    assert not stopped.value.code
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_lists_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = told_in_help(capsys)
    for field in fields().values():
        value = ",".join(map(str, field.value)) or "''" if isinstance(field.value, tuple) else str(field.value)
        value = value.lower() if value in ("None", "True", "False") else value
        assert f"--config.{field.path} {field.type_name} {field.doc} (default: {value})" in text
    assert "--config.optim.betas float,float or none decay of" in text
    assert "nfjax train" in text
    for name in ("workdir", "profile", *(field.name for field in dataclasses.fields(Options))):
        assert f" --{name} " in text


def test_help_shows_the_values_of_a_config_file(capsys):
    assert "--config.data.batch_size int images per step, over all devices. (default: 50)" in told_in_help(
        capsys, DIGITS
    )
    assert Config().data.batch_size != 50


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    command = [sys.executable, "-m", "train.main", "--tyro-print-completion", shell]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "config.optim.clip_mode" in script
    assert "nmuon" in script


def test_recipes_have_names(tmp_path, monkeypatch, capsys):
    """From any folder: they are part of the package."""
    expected = read_command(["main.py", DIGITS])
    monkeypatch.chdir(tmp_path)
    assert read_command(["main.py", "--config=digits"]) == expected
    assert "Did you mean digits? Recipes: digits, " in refused(capsys, "--config=digitts")
    assert "Did you mean folder? " in refused(capsys, "--config=train/configs/foldr.py")
    (tmp_path / "mine.py").write_text("from train.config import *\ndef get_config(): return Config(epochs=7)\n")
    assert read_command(["main.py", "--config=mine.py"])[:2] == (Config(epochs=7), Path("runs/mine"))


def test_the_config_of_another_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Config(
        model=Model(weights="w", num_classes=3),
        data=Data(mean=(0.5, 0.25, 0.125)),
        optim=Optim(betas=(0.9, 0.95), freeze=("a", "b"), groups=(Group("c", weight_decay=0.5), Group("d"))),
    )
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert read_command(["main.py", "--config=runs/first"])[:2] == (config, Path("runs/first-2"))
    assert read_command(["main.py", f"--config={run}/config.json"])[:2] == (config, Path("runs/first-2"))
    assert read_command(["main.py", "--config=runs/first", "--workdir=w", "--config.epochs=1"])[:2] == (
        dataclasses.replace(config, epochs=1),
        Path("w"),
    )
    assert configs.workdir("runs/first-9") == Path("runs/first-9")  # not a run
    run.rename(run.with_name("first-9"))
    assert configs.workdir("runs/first-9") == Path("runs/first-10")

    path = tmp_path / "runs" / "first-9" / "config.json"
    old = dataclasses.asdict(config)
    del old["log"], old["optim"]["lr"]
    path.write_text(json.dumps(old | {"epoch": 3, "optim": old["optim"] | {"lrr": 1, "eps": -1}}))
    message = refused(capsys, "--config=runs/first-9")
    assert "runs/first-9/config.json has values that do not fit their fields:\n" in message
    assert "  epoch: there is no such field. Did you mean epochs?\n" in message
    assert "  optim.lrr: there is no such field. Did you mean optim.lr?\n" in message
    assert "  optim.eps=-1: expected a finite number, at least 0, or none\n" in message
    del old["data"]["mean"]
    path.write_text(json.dumps(old))
    assert read_command(["main.py", "--config=runs/first-9"])[0] == dataclasses.replace(config, data=Data())  # defaults
    for text in ("{", "[]", '{"optim": {"groups": [{}]}}'):
        path.write_text(text)
        assert "runs/first-9/config.json is not the config of a run: " in refused(capsys, "--config=runs/first-9")


def test_several_values_of_a_tuple_may_stand_apart():
    assert read_command(["main.py", DIGITS, "--config.optim.betas", "0.8", "0.9"])[0].optim.betas == (0.8, 0.9)


def test_nothing_waits_for_jax():
    heavy = "{'jax', 'numpy', 'orbax'}"
    code = f"import sys, train.cli.flags as f; f.read_command(sys.argv); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, DIGITS, "--config.optim.lr=1"], check=True, cwd=ROOT)


def test_help_in_a_terminal_of_one_column():
    command = [sys.executable, "-m", "train.main", "--help"]
    subprocess.run(command, env=os.environ | {"COLUMNS": "1"}, cwd=ROOT, check=True, timeout=60, capture_output=True)
