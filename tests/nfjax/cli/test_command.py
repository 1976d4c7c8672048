"""The command `nfjax`: which commands there are, how soon they answer, what a mistake is answered with, completion."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import get_args

import pytest

import nfjax
from nfjax.__main__ import main
from nfjax.augment.options import Interpolation
from nfjax.cli import export_options
from nfjax.cli.table import COMMANDS
from nfjax.exporting import KNOWN_PLATFORMS
from nfjax.images import INTERPOLATIONS
from nfjax.models.known import architectures
from port.commands import Parser
from train.verify import __main__ as door
from train.verify.training import RECIPES

HEAVY = {"jax", "flax", "numpy", "PIL", "optax", "orbax", "grain", "matplotlib", "huggingface_hub", "safetensors"}
# Runs command lines in one process; prints their statuses, and what was imported.
MANY = """
import json, sys
from nfjax.__main__ import main
statuses = []
for command in json.loads(sys.argv[1]):
    try:
        statuses.append(main(command))
    except SystemExit as stopped:
        statuses.append(stopped.code or 0)
print(json.dumps([statuses, sorted(sys.modules)]))
"""


def many(*commands, first=""):
    """Statuses, modules and messages of command lines, in a process of their own."""
    command = [sys.executable, "-c", first + MANY, json.dumps(commands)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    statuses, modules = json.loads(result.stdout.splitlines()[-1])
    return statuses, set(modules), result.stdout, result.stderr


def test_help_and_mistakes_need_no_library():
    """What takes long to import is not imported to say what the commands are, or which one was mistyped."""
    good = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    bad = [[], ["clasify"], ["--verzion"], *([name, "--hepl"] for name in COMMANDS)]
    statuses, modules, out, err = many(*good, *bad)
    assert statuses == [0] * len(good) + [2] * len(bad)
    assert not modules & HEAVY
    assert all(f"  {name} " in out and f"usage: nfjax {name}" in out for name in COMMANDS)
    assert len(err.splitlines()) == len(bad)  # a mistake is one line
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_the_packages_import_nothing_until_a_name_is_used():
    code = "import sys, nfjax, port, nfjax.augment, train.data, train.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & HEAVY


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["clasify"], "clasify: there is no such command. Did you mean classify?"),
        (["--verzion"], "--verzion: there is no such option. Did you mean --version?"),
        (["classify", "--modle=x"], "--modle=x: there is no such option. Did you mean --model?"),
        (["classify"], "the following arguments are required: IMAGE. `nfjax classify --help`"),
        (["export", "--format", "onxn", "a"], "invalid choice: 'onxn'"),
        (["convert", "a", "b", "--to", "torch"], "invalid choice: 'torch'"),
        (["info"], "expected the name of one model, as an argument or as --model."),
        (["info", "test_nfnet", "--model", "test_vit"], "as --model; found 2: test_nfnet and test_vit."),
        (["convert", "a.safetensors", "folder"], "or --model NAME to make a folder of that model"),
        (["convert", "a.safetensors", "folder", "--to", "flax"], "expected a file name ending in .safetensors"),
        (["evaluate", "--modle", "x"], "Did you mean --model?"),
        (["average", "nowhere", "--bset", "1"], "Did you mean --best?"),
        (["inspect", ".", "--config.seed=1"], "takes the place of PLACE"),
        (["verify-training", "--steps", "0"], "--steps=0: expected at least 1."),
    ],
)
def test_mistakes(argv, said, capsys):
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    assert said in line


def test_what_was_typed_is_what_the_help_says(capsys):
    for argv, prog, said in (
        (["train", "--help"], "nfjax", "usage: nfjax train "),
        (["train", "--help"], "python -m nfjax", "usage: python -m nfjax train "),
        (["evaluate", "--help"], "nfjax", "\n  nfjax evaluate --model eca_nfnet_l0"),
        (["classify", "--help"], "python -m nfjax", "\n  python -m nfjax classify photos/"),
    ):
        with pytest.raises(SystemExit):
            main(argv, prog)
        assert said in capsys.readouterr().out


def test_missing_packages_are_told_with_their_extra(tmp_path):
    """As if the extras were not installed."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    missing = "import sys; sys.modules |= dict.fromkeys(['orbax', 'grain', 'matplotlib', 'shtab', 'optax']); "
    commands = {
        "train": ["train", "--config=digits", f"--workdir={tmp_path}"],
        "average": ["average", str(tmp_path)],
        "curves": ["curves", str(tmp_path)],
        "inspect": ["inspect", str(tmp_path)],
        "completion": ["completion", "bash"],
    }
    statuses, _, _, err = many(*commands.values(), first=missing)
    assert statuses == [2] * len(commands)
    for name, line in zip(commands, err.splitlines(), strict=True):
        extra = "cli" if name == "curves" else COMMANDS[name].extra
        told = "pictures need matplotlib, which is not installed" if name == "curves" else rf"nfjax {name} needs \w+"
        assert re.fullmatch(rf"error: {told}: pip install 'nfjax\[{extra}\]'\.", line)


def test_names_and_paths_that_there_are_not_are_told_before_libraries_are_imported(tmp_path):
    """Each of these took as long as its libraries, 20 seconds on a cold machine."""
    (tmp_path / "a.png").touch()
    image, folder = str(tmp_path / "a.png"), str(tmp_path)
    told = {
        "inspect picturez": "picturez: there is no such file or folder",
        "inspect": "give a folder of images, a table or tfds/NAME, or a config: --config=FILE.",
        "inspect t.csv": "data.root: there is no file t.csv",
        "inspect --config=folder --config.data.root=picturez": "data.root: there is no folder picturez",
        "train --config=folder --config.data.root=picturez": "data.root: there is no folder picturez",
        "train --config=digits --config.model.name=test_nfmet": "unknown model 'test_nfmet'; did you mean test_nfnet",
        "verify unknown_name": "unknown model 'unknown_name'; `nfjax list`",
        "verify": "name the models to verify",
        "info nfnet_l9": "unknown model 'nfnet_l9'; did you mean nfnet_l0",
        "info nobody/nothing": "'hf-hub:nobody/nothing'",
        "list foo": "unknown model 'foo'",
        "export": "expected the name of one model",
        "export ./nowhere": "there is no folder nowhere",
        "export test_nfnet -o x.onnx --platforms cpu": "--platforms is not for ONNX files",
        "export test_nfnet -o x.onnx --format zip": "x.onnx: expected a file name ending in .zip",
        "export test_nfnet -o x.onnx --page y": "--page writes DIR/model.onnx",
        "export test_nfnet --weights nowhere": "no weights at nowhere",
        "classify nowhere.png": "nowhere.png is no file, folder or pattern.",
        f"classify {image} --model test_nfmet": "did you mean test_nfnet",
        f"embed {image} --weights nowhere -o x.npz": "no weights at nowhere",
        "features nowhere.png": "there is no file nowhere.png",
        "average nowhere": "there is no folder nowhere",
        "curves nowhere": "there is no folder nowhere",
        "convert nowhere.safetensors x.safetensors": "no weights at nowhere.safetensors",
        f"convert {folder} x --model test_nfmet": "did you mean test_nfnet",
        f"evaluate --model test_nfmet --data {folder}": "did you mean test_nfnet",
        "evaluate --model test_nfnet --data t.csv": "data.root: there is no file t.csv",
        f"evaluate --model test_nfnet --weights nowhere --data {folder}": "no weights at nowhere",
    }
    statuses, modules, _, err = many(*(command.split() for command in told))
    for (command, said), line in zip(told.items(), err.splitlines(), strict=True):
        assert line.startswith("error: "), command
        assert said in line, command
    assert statuses == [2] * len(told)
    assert not modules & HEAVY


def test_the_names_that_need_no_library_are_those_of_the_models():
    assert set(architectures()) == set(nfjax.list_models())


def test_a_message_says_none_as_it_can_be_typed(tmp_path, capsys):
    """`weights=None` is Python's."""
    assert main(["export", "nfnet_f0", "-o", str(tmp_path / "x.zip")]) == 2
    assert "--weights none is a fresh model, and --weights FILE takes" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"weights=None is a fresh model"):
        nfjax.load("nfnet_f0")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_training_gets_huge_pages(tmp_path):
    """The process of `nfjax train` starts itself anew once it knows that the command makes sense."""
    (tmp_path / "config.py").write_text(
        "import os\nfrom train.config import Config, Data\n"
        "def get_config():\n    print(os.environ.get('GLIBC_TUNABLES'))\n    return Config(data=Data(name='letters'))\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "nfjax", "train", f"--config={tmp_path / 'config.py'}"]
    loading = "loading test_nfnet (fresh weights) and letters images; the work folder is runs/config\n"
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "None\nglibc.malloc.hugetlb=1\n" + loading)
    assert result.stderr.startswith("error: data.name='letters' is not known")


def test_the_same_options_have_the_same_names():
    """Every command: no underscores but in fields of configs, and one spelling of what several of them take."""
    spelt = {}
    for name, command in COMMANDS.items():
        parser = parser_of_(command)
        spelt[name] = {option for action in parser._actions for option in action.option_strings}
        for option in spelt[name]:
            assert "_" not in option or option.startswith(("--config.", "--data.")), (name, option)
        assert not spelt[name] & {"--out", "--size", "--batch", "--name", "--image-size"}, name
        assert ("-o" in spelt[name]) == ("--output" in spelt[name]), name
    assert all("--model" in spelt[name] for name in ("info", "classify", "embed", "features", "export", "evaluate"))
    assert all("--model" in spelt[name] for name in ("convert", "verify"))
    weighed = ("classify", "embed", "features", "export", "evaluate", "verify")
    assert all({"--weights", "--weights-key"} <= set(spelt[name]) for name in weighed)


def parser_of_(command):
    parser = Parser(prog="x")
    place = command.options or command.completes
    module, _, name = place.partition(":")
    getattr(__import__(module, fromlist=[name]), name)(parser)
    return parser


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("export", ["test_nfnet", "--batch=2"], ["test_nfnet", "--batch-size=2"]),
        ("verify", ["a", "--size", "97x113", "--size=64"], ["--model", "a", "--img-size=97x113", "--img-size=64"]),
        ("average", ["run", "--out", "x"], ["run", "-o", "x"]),
        ("inspect", ["folder", "--out=x.png"], ["folder", "-o", "x.png"]),
        (
            "evaluate",
            ["--model", "a", "--out=x", "--num_processes=2", "--process_id", "1"],
            ["--model", "a", "-o", "x", "--num-processes", "2", "--process-id=1"],
        ),
    ],
)
def test_documented_older_spellings_are_understood_but_not_shown(command, old, new):
    parser = parser_of_(COMMANDS[command])
    found, expected = (vars(parser.parse_args(arguments)) for arguments in (old, new))
    for values in (found, expected):
        values["names"] = values.get("names") or values.get("model")  # `verify a` and `verify --model a`
        values.pop("model", None)
    assert found == expected
    shown = parser.format_help()
    for argument in old:
        option = argument.partition("=")[0]
        assert option == "--model" or not option.startswith("--") or not re.search(rf"{option}\b(?!-)", shown)


def test_sizes_are_a_side_or_two(capsys):
    parser = parser_of_(COMMANDS["export"])
    for typed, sizes in (["96"], [(96,)]), (["96", "64"], [(96,), (64,)]), (["96x64"], [(96, 64)]):
        assert parser.parse_args(["a", "--img-size", *typed]).img_size == sizes
    with pytest.raises(SystemExit):
        parser.parse_args(["a", "--img-size", "1x2x3"])
    assert "'1x2x3' is no size; expected pixels as in 224 or 96x64" in capsys.readouterr().err


def test_weights_may_be_none(tmp_path, capsys):
    """Fresh ones, by the same word for every command."""
    arguments = ["--weights", "none", "--img-size", "64", "--batch-size", "1", "--platforms", "cpu"]
    assert main(["export", "--model", "test_nfnet", *arguments, "-o", str(tmp_path / "a.zip")]) == 0
    assert "pass" in capsys.readouterr().out


def test_convert_goes_both_ways(tmp_path, capsys):
    state = nfjax.state_dict(nfjax.load("test_nfnet", weights=None))
    nfjax.save(nfjax.load("test_nfnet", weights=state), tmp_path / "saved")
    flax, timm = str(tmp_path / "flax.safetensors"), str(tmp_path / "timm.safetensors")
    assert main(["convert", str(tmp_path / "saved"), flax]) == 0
    assert main(["convert", flax, timm, "--to", "timm", "--model", "test_nfnet"]) == 0
    assert main(["convert", flax, str(tmp_path / "again"), "--model", "test_nfnet"]) == 0
    from safetensors.numpy import load_file

    assert "stem/conv1/kernel" in load_file(flax)
    original = load_file(tmp_path / "saved" / "model.safetensors")
    for found in (load_file(timm), load_file(tmp_path / "again" / "model.safetensors")):
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in original.items()
        }
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "saved" / "config.json").read_text()
    told = capsys.readouterr().out
    assert told.count("383,080 parameters") == 3
    assert "(replaced)" not in told
    for dest, more in ((flax, []), (str(tmp_path / "again"), ["--model", "test_nfnet"])):
        assert main(["convert", timm, dest, *more]) == 0
        assert capsys.readouterr().out.startswith(f"{dest} (replaced): ")


def test_options_repeat_what_modules_offer_that_take_long_to_import():
    assert export_options.PLATFORMS == KNOWN_PLATFORMS
    assert set(get_args(Interpolation)) == {*INTERPOLATIONS, "random"}
    assert list(door.RECIPES) == list(RECIPES)


# What bash does when TAB is pressed, without a terminal.
PRESS_TAB = r"""
source "$1"; shift
complete -p nfjax
while read -r line; do
  read -ra COMP_WORDS <<<"${line//=/ = }"
  [[ $line == *[\ =] ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  "$(complete -p nfjax | sed 's/.*-F \([^ ]*\) .*/\1/')" nfjax 2>/dev/null
  echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "nfjax.sh").write_text(capsys.readouterr().out)
    expected = {
        "nfjax ev": ["evaluate"],
        "nfjax verify": ["verify-training", "verify"],
        "nfjax classify --img": ["--img-size"],
        "nfjax classify a.png --model eca_nfnet_l": [f"eca_nfnet_l{i}" for i in range(4)],
        "nfjax info eca_nfnet_l3": ["eca_nfnet_l3"],
        "nfjax train --config=dig": ["digits"],
        "nfjax train --num": ["--num-processes"],
        "nfjax train --config.optim.weight_": ["--config.optim.weight_decay"],
        "nfjax train --config.augment.interpolation=b": ["bilinear", "bicubic", "box"],
        "nfjax train --config.augment.interpolation l": ["lanczos"],
        "nfjax average run --output=" + str(tmp_path / "nf"): [str(tmp_path / "nfjax.sh")],
        "nfjax convert a b --to t": ["timm"],
    }
    command = ["bash", "-c", PRESS_TAB, "bash", str(tmp_path / "nfjax.sh")]
    result = subprocess.run(command, input="\n".join(expected) + "\n", capture_output=True, text=True)
    registered, *found = result.stdout.splitlines()
    assert registered == "complete -o bashdefault -F _nfjax nfjax", result.stderr
    assert dict(zip(expected, map(str.split, found), strict=True)) == expected


def test_nobody_reads_on():
    """As in `nfjax list | head -1`."""
    command = [sys.executable, "-m", "nfjax", "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""
