"""The command line: what it sets, and what a mistake is answered with."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import train.config
from train.cli.fields import attribute_docs, fields, settable
from train.cli.flags import Options, Profile, parse, read
from train.config import Config, Optim

DIGITS = "--config=train/configs/digits.py"
ROOT = Path(__file__).parents[3]
DATACLASSES = [kind for kind in vars(train.config).values() if inspect.isclass(kind) and dataclasses.is_dataclass(kind)]


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
    assert list(attribute_docs(kind)) == [field.name for field in dataclasses.fields(kind)]


def test_documentation_is_read_over_several_lines():
    docs = attribute_docs(Optim)
    assert docs["lr"] == "peak learning rate."
    assert docs["lr_base_size"].startswith("batch size that `lr` is meant for. The batch size of the run scales it:")
    assert docs["lr_base_size"].endswith("None to take `lr` as it is.")


def test_choices_are_the_quoted_values():
    """A sentence that quotes something else beside the default would forbid the rest: look at what this lists."""
    assert {field.path for field in fields().values() if field.choices} == {
        "model.dtype", "loss.name", "optim.name", "optim.decay_rule", "optim.clip_mode", "schedule.name",
        "checkpoint.metric", "augment.interpolation", "mix.mixup_mode", "mix.remode",
    }  # fmt: skip
    assert fields()["loss.name"].choices == ("ce", "bce")


def other(field):
    """Another value than the default, and how it is written."""
    if field.choices:
        return field.choices[-1], field.choices[-1]
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


@pytest.mark.parametrize("path", [path for path, field in fields().items() if settable(field.kind)])
def test_each_field_can_be_set(path):
    value, text = other(fields()[path])
    config = read(["main.py", DIGITS, f"--config.{path}={text}"])[0]
    given = fields(config)[path].value
    assert (given, type(given)) == (value, type(value))
    default = fields(read(["main.py", DIGITS])[0])
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
    config = read(["main.py", f"--config={path}", *(f"--config.{name}=none" for name in optional)])[0]
    assert [fields(config)[name].value for name in optional] == [None] * 4


@pytest.mark.parametrize(
    ("text", "value"),
    [("('a,b',)", ("a,b",)), ("stem/(a|b)", ("stem/(a|b)",)), ("", ()), ("()", ()), ('["x", "y"]', ("x", "y"))],
)
def test_tuples_of_texts(text, value):
    assert read(["main.py", DIGITS, f"--config.optim.freeze={text}"])[0].optim.freeze == value


def test_other_spellings():
    command = (
        "main.py --config.optim.lr 1 -config.optim.momentum=-1 --config.ema.warmup --noconfig.log.tensorboard "
        "--config train/configs/digits.py --config.optim.lr=2"
    )
    config, workdir, options = read(command.split())
    assert (config.optim.lr, config.optim.momentum, config.ema.warmup) == (2.0, -1.0, True)  # the last one counts
    assert not config.log.tensorboard
    assert (workdir, options) == (Path("runs/digits"), Options())


def test_options():
    arguments = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=1", "--distributed=on"]
    _, workdir, options = read(["main.py", DIGITS, "--workdir=w", "--profile=30:33", "--verbosity=info", *arguments])
    assert workdir == Path("w")
    assert options == Options(Profile(30, 33), "localhost:1234", 2, 1, "on", "info")
    assert options.profile.steps(100) == range(30, 33)
    counted = read(["main.py", DIGITS, "--profile=3"])[2].profile.steps(100)
    assert len(counted) == 3
    assert counted.start > 101  # the first step compiles


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.lrr=1", "--config.optim.lrr=1: there is no such field. Did you mean --config.optim.lr?"),
        ("--config.lr=1", "there is no such field. Did you mean --config.optim.lr?"),
        ("--config.optim.warmup_epochs=1", "Did you mean --config.schedule.warmup_epochs?"),
        ("--config.optim.lr.peak=1", "Did you mean --config.optim.lr?"),
        ("--config.qwertyuiop=1", "there is no such field. `python -m train.main --help` lists them all."),
        ("--optim.lr=1", "there is no flag --optim.lr. Did you mean --config.optim.lr?"),
        ("--wrkdir=x", "there is no flag --wrkdir. Did you mean --workdir?"),
        ("--config.data=3", "--config.data is a section; set its fields one by one:\n  --config.data.name: str\n"),
        ("--config.optim.lr=fast", "--config.optim.lr=fast: expected a finite number.\n  optim.lr (float): peak"),
        ("--config.optim.lr=nan", "--config.optim.lr=nan: expected a finite number."),
        ("--config.optim.lr=none", "--config.optim.lr=none: expected a finite number."),
        ("--config.optim.lr=", "--config.optim.lr=: expected a finite number."),
        ("--config.optim.lr", "--config.optim.lr: the value is missing; expected a finite number."),
        ("--config.epochs=1.5", "--config.epochs=1.5: expected an integer.\n"),
        ("--config.ema.warmup=maybe", "--config.ema.warmup=maybe: expected true or false.\n"),
        ("--config.optim.betas=0.9", "--config.optim.betas=0.9: expected 2 numbers with commas between, or none."),
        ("--config.optim.betas=0.9,x", "expected 2 numbers with commas between, or none."),
        ("--config.loss.name=bcee", "--config.loss.name=bcee: expected one of ce, bce."),
        ("--config.optim.groups=x", "--config.optim.groups cannot be given here; set it in the config file."),
        ("--noconfig.optim.lr", "--noconfig.FIELD is for fields that are true or false"),
        ("more", "unexpected arguments: more;"),
        ("--profile=first", "--profile=first: expected a number of steps, or START:STOP."),
        ("--profile=5:5", "--profile=5:5: no step lies in it;"),
        ("--num_processes=two", "flag --num_processes=two: "),
        ("--distributed=maybe", "<auto|on|off>"),
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
        (None, "there is no such file; an example is train/configs/digits.py."),
        ("lr = 1\n", "c.py has no function get_config(); it should return a train.config.Config."),
        ("def get_config(): return {}\n", "get_config() of {path} returned {{}}; expected a train.config.Config."),
        ("def get_config(): return\n", "returned None; expected a train.config.Config."),
        ("def get_config(:\n", "c.py, line 1: SyntaxError: "),
        ("import nothing_of_that_name\n", "c.py, line 1: ModuleNotFoundError: No module named"),
        (
            "from train.config import *\n\ndef get_config(): return Config(optim=Optim(lrr=1))\n",
            "c.py, line 3: TypeError: Optim.__init__() got an unexpected keyword argument 'lrr'. "
            "Did you mean optim.lr?",
        ),
        (
            "from train.config import *\n"
            "def get_config(): return Config(epochs='3', optim=Optim(betas=[1, 2]), data=3)\n",
            "  data=3: expected a train.config.Data\n"
            "  epochs='3': expected an integer\n"
            "  optim.betas=[1, 2]: expected 2 ",
        ),
    ],
)
def test_mistakes_in_the_config_file(capsys, tmp_path, text, message):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(text)
    assert message.format(path=path) in refused(capsys, f"--config={path}")


def test_no_config_file(capsys):
    assert "--config=FILE.py is missing; an example is train/configs/digits.py." in refused(capsys)


def test_help_lists_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        parse(["main.py", "--help"])
    text = capsys.readouterr().out
    assert not stopped.value.code
    lines = text.splitlines()
    for field in fields().values():
        head = lines.index(next(line for line in lines if line.startswith(f"  {field.path} ({field.type_name}) = ")))
        assert " ".join(line.strip() for line in lines[head + 1 :]).startswith(field.doc)
    assert "  optim.betas (float,float or none) = none\n" in text
    assert "python -m train.main --config=train/configs/digits.py" in text
    for name in ("workdir", "profile", *(field.name for field in dataclasses.fields(Options))):
        assert f"\n  --{name}=" in text


def test_help_shows_the_values_of_a_config_file(capsys):
    with pytest.raises(SystemExit):
        parse(["main.py", "--help", DIGITS])
    assert "  data.batch_size (int) = 50\n" in capsys.readouterr().out
    assert Config().data.batch_size != 50


def test_nothing_waits_for_jax():
    code = "import sys, train.cli.flags as f; f.read(sys.argv); assert not {'jax', 'numpy', 'orbax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, DIGITS, "--config.optim.lr=1"], check=True, cwd=ROOT)
