"""What a run would need of devices that are not there: `nfjax plan --config=NAME --on "8 x h100"`."""

import argparse
import sys
from collections.abc import Sequence

from port.commands import Parser
from port.messages import exit_status
from port.paths import user_path

EXAMPLES = """examples:
  %(prog)s --config=eca_nfnet_l0 --on "8 x h100"
  %(prog)s --config=my.py --config.data.batch_size=4096 --on v5e-64 --images 1281167 --classes 1000"""


def main(argv: Sequence[str], prog: str = "python -m train.plan") -> int:
    """Run the command; the exit status is 1 if the run does not fit, 2 for a mistake."""
    return exit_status(lambda: _plan(argv, prog), extra="train", prog=prog, spelling="--config.model.{}={}")


def options(parser: Parser) -> None:
    parser.description = (
        "Compiles the training step of a config for devices that need not be there, and says what it would need: "
        "memory of each device, whether it fits, the largest batch that does, what other settings would change, bytes "
        "between devices, and the least time by data sheets. The exit status is 1 if it does not fit. It needs the "
        "packages of jax[cuda13] for GPUs, of jax[tpu] for TPUs; no device, no driver, no images, no weights."
    )
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="recipe, FILE.py or a run; its fields as for nfjax train")
    add("--on", required=True, metavar="DEVICES", help="as '8 x h100', 'v5e-64', or '8 x cpu' for this machine")
    add("--images", type=int, metavar="N", help="to train on, where the data set is not here")
    add("--classes", type=int, metavar="N", help="likewise")
    variants = "also the largest batch that fits, and other settings (default: yes)"
    add("--variants", action=argparse.BooleanOptionalAction, default=True, help=variants)
    add("--json", type=user_path, metavar="FILE", help="write all figures here too")


def _plan(argv: Sequence[str], prog: str) -> int:
    from nfjax.models.known import require_model
    from train.cli.flags import read_command
    from train.cli.options import UsageError
    from train.plan.devices import devices

    parser = Parser(prog=prog, others=("--config",))
    options(parser)
    args, rest = parser.parse_known_args(list(argv))
    for option in ("images", "classes"):
        if (value := getattr(args, option)) is not None and value < 1:
            parser.error(f"--{option}={value}: expected at least 1.")
    try:
        config, _, _ = read_command([prog, f"--config={args.config}", *rest])
    except UsageError as error:
        parser.error(str(error))
    require_model(config.model.name)
    there = devices(args.on)
    there.prepare()
    from train.plan.report import report

    return report(config, there, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
