"""Trains a model on a folder of images and writes a report. Run again with the same workdir, it resumes.

    python -m bt_jax.main --config=configs/effnet.py:demo
    python -m bt_jax.main --config=configs/effnet.py:cpu --config.data.dir=archive.zip --workdir=runs/first
    python -m bt_jax.main --config=configs/effnet.py --config.data.fold=-1 --config.train.batch_size=128
    python -m bt_jax.main --config=configs/effnet.py --summary=effnet.svg

One of several processes that train together, on as many hosts (Cloud TPU, GKE, SLURM and Open MPI need no flags):

    python -m bt_jax.main --config=configs/effnet.py --coordinator=10.0.0.1:1234 --processes=4 --process=0

A configuration is a commented Python file; any of its fields can be set as --config.FIELD=VALUE. This is a research
tool, not a medical device.
"""

import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax.common import cli
from bt_jax.common.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, logs and the report. Default: runs/ and the name of the configuration."
)
_SUMMARY = flags.DEFINE_string(
    "summary",
    None,
    "Do not train: print the model's parameters and layers and draw it into this .svg or .png file.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, for one of several processes that no launcher JAX knows has started."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes; 1: this one is alone, whatever started it.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat", 100, "Seconds without a sign of life after which a process counts as lost, and all others stop.", 2
)


def main() -> int | None:
    """Dispatches to training, or to the picture of the model."""
    if _CONFIG.value is None:
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py:demo")
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    if _SUMMARY.value is not None:
        return _summarise(_CONFIG.value, pathlib.Path(_SUMMARY.value))
    from bt_jax.distributed import processes  # after the flags: --help need not wait for JAX

    cli.prepare_to_compute()
    processes.join(
        coordinator=_COORDINATOR.value,
        processes=_PROCESSES.value,
        process=_PROCESS.value,
        heartbeat=_HEARTBEAT.value,
    )
    return processes.run_as_one(_train)


def _train() -> int:
    from bt_jax.distributed import processes
    from bt_jax.training import examples
    from bt_jax.training.train import train_and_evaluate  # after the flags: grain defines flags of its own
    from bt_jax.workdir import remote

    workdir = _WORKDIR.value or _choose_workdir()
    if not remote.is_remote(workdir):
        folder = pathlib.Path(workdir)
        status = train_and_evaluate(_CONFIG.value, folder, began=cli.BEGAN)
        if not status and (folder / examples.FOLDER).is_dir():
            processes.say(f"\n{examples.format_next_commands(folder)}")
        return status
    copy = remote.Mirror(workdir, process=processes.get_index())
    publish = copy.push if processes.is_first() else None
    return train_and_evaluate(_CONFIG.value, copy.pull(), began=cli.BEGAN, publish=publish)


def _summarise(config: ml_collections.ConfigDict, picture: pathlib.Path) -> int:
    from bt_jax.data import class_labels
    from bt_jax.defaults import get_model_options
    from bt_jax.models import registry, summary
    from bt_jax.reports import model_diagram

    model_diagram.check_suffix(picture)
    size = config.preprocess.size or registry.get_native_size(config.model.name)
    classes = len(class_labels.BRAIN_TUMOR_CLASSES)
    options = get_model_options({**config.model})
    network, params, batch_stats = registry.create(config.model.name, classes=classes, size=size, **options)
    segments = summary.summarise(network, params, batch_stats, size=size)
    print(f"{summary.format_parameters(params)}\n\n{summary.format_table(segments)}")
    model_diagram.draw_diagram(picture, segments, title=f"{config.model.name}, {classes} classes", size=size)
    print(f"picture: {picture}")
    return 0


def _choose_workdir() -> str:
    name, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{pathlib.Path(name).stem}{'_' if variant else ''}{variant}"


if __name__ == "__main__":
    cli.run(main)
