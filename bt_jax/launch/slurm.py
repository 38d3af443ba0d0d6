"""Runs bt_jax.main on the nodes of a SLURM cluster that share this checkout.

    ./launch.sh slurm --nodes=2 --gpus-per-node=4 --time=12:00:00 --config=configs/effnet.py --workdir=runs/first
    ./launch.sh slurm --nodes=4 --sbatch=--partition=cpu --dry-run --config=configs/cnn.py --workdir=runs/cnn

Installs the checkout here, prints the script and submits it with sbatch. There is one process for each GPU, or for each
node without GPUs. JAX finds the others through SLURM's environment. Before the time limit, or before a job of higher
priority takes the nodes, the processes get SIGTERM: they save, the job is requeued, and it resumes from there.
"""

import shlex
from collections.abc import Sequence

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands


def main(arguments: Sequence[str]) -> int:
    """Submits the job."""
    own, flags = commands.split_flags(arguments)
    parser = commands.Options(__doc__ or "", command="slurm")
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes (default: 1)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="GPUs of each node (default: 0, on CPUs)")
    parser.add_argument(
        "--cuda",
        type=int,
        default=12,
        choices=(12, 13),
        help="CUDA of the GPUs: 12, or 13 for drivers from 580 on (default: 12)",
    )
    parser.add_argument("--time", default="24:00:00", help="time limit of each start (default: 24:00:00)")
    parser.add_argument("--name", default="bt_jax", help="name of the job (default: bt_jax)")
    parser.add_argument(
        "--grace", type=int, default=120, metavar="SECONDS", help="time for the last checkpoint (default: 120)"
    )
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="another option of sbatch, such as --sbatch=--account=A",
    )
    options = parser.parse_args(own)
    commands.require_checkout("slurm")
    commands.require_config(flags)
    if not commands.get_value(flags, "--workdir"):
        raise UsageError("--workdir is missing: give a folder that all nodes can access")
    for name, value, least in (
        ("nodes", options.nodes, 1),
        ("gpus-per-node", options.gpus_per_node, 0),
        ("grace", options.grace, 1),
    ):
        if value < least:
            raise UsageError(f"--{name} is {value}: use {least} or more")
    for option in options.sbatch:
        if not option.startswith("-") or any(character.isspace() for character in option):
            raise UsageError(f"--sbatch is {option!r}: write it as --sbatch=--OPTION=VALUE")
    text = make_script(
        flags,
        name=options.name,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        time=options.time,
        grace=options.grace,
        others=options.sbatch,
    )
    shell = commands.Shell(dry_run=options.dry_run)
    shell.run("./launch.sh", "install", *([f"cuda{options.cuda}"] if options.gpus_per_node else []))
    shell.say(text)
    shell.run("sbatch", stdin=text)  # without a file, sbatch reads the script from standard input
    return 0


def make_script(
    flags: Sequence[str],
    *,
    name: str,
    nodes: int,
    gpus_per_node: int,
    time: str,
    grace: int,
    others: Sequence[str] = (),
) -> str:
    """Makes the batch script.

    Args:
      flags: of bt_jax.main.
      name: of the job.
      nodes: number of nodes.
      gpus_per_node: 0: one process for each node, on its CPUs.
      time: time limit of each start.
      grace: seconds between SIGTERM and the limit.
      others: more options of sbatch.
    """
    options = [
        f"--job-name={name}",
        f"--nodes={nodes}",
        # Each process uses the GPU with its index on the node.
        f"--ntasks-per-node={max(1, gpus_per_node)}",
        *([f"--gpus-per-node={gpus_per_node}"] if gpus_per_node else []),
        f"--time={time}",
        f"--chdir={commands.ROOT}",
        "--output=slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{grace}",
        *others,
    ]
    directives = "\n".join(f"#SBATCH {_format_directive(option)}" for option in options)
    return f"""\
#!/usr/bin/env bash
{directives}
set -uo pipefail

# The signal before the limit goes to the processes, not to this script. They save and exit with status 143.
# If one fails, srun stops the others.
status=0
srun --kill-on-bad-exit=1 --label \\
  .venv/bin/python -m bt_jax.main {shlex.join(flags)} || status=$?
if ((status == 143)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def _format_directive(option: str) -> str:
    """Formats an option for a script, with its value in quotes if it contains spaces."""
    name, _, value = option.partition("=")
    return f'{name}="{value}"' if any(character.isspace() for character in value) else option


if __name__ == "__main__":
    commands.run_launcher(main)
