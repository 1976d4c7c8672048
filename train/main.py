"""Train a model: `python -m train.main --config=train/configs/digits.py [--workdir=DIR] [--config.FIELD=VALUE]`.

The same command continues an interrupted run, bit for bit.
"""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Python file whose get_config() returns a Config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the config file.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(path).is_file():
        raise app.UsageError(f"--config={path}: there is no such file; an example is train/configs/digits.py.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the checkpointing library tells of every step it takes
    from train.loop import run  # after the flags are parsed: a mistake there should not wait for jax

    workdir = Path(_WORKDIR.value or Path("runs") / Path(path).stem)
    try:
        print(run(_CONFIG.value, workdir))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; the same command continues from the last checkpoint in {workdir}") from None


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
