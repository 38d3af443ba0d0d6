"""Checkpoints of a run: the latest and the best. The only module that knows Orbax."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from bt_jax.errors import UsageError

FOLDER = "checkpoints"
# What a checkpoint holds besides the metadata; predictions read `evaluation` alone.
EVALUATION, TRAINING = "evaluation", "training"

_policies = ocp.training.preservation_policies


@dataclasses.dataclass
class _Best(_policies.PreservationPolicy):  # type: ignore[name-defined]
    """Keeps the one step that the run knows as its best."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One flag for each checkpoint."""
        del context
        return [info.step == self.step for info in checkpoints]


class Checkpoints:
    """The checkpoints in a workdir. Each is written beside its place and renamed when complete."""

    def __init__(self, workdir: str | os.PathLike[str]):
        self._best = _Best()
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(workdir).absolute() / FOLDER,
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(1), self._best]),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint."""
        self._checkpointer.wait()
        return None if self._checkpointer.latest is None else self._checkpointer.latest.step

    def save(
        self, step: int, *, evaluation: Any, training: Any, metadata: dict[str, Any], best_step: int | None
    ) -> None:
        """Writes a checkpoint, then removes all but this one and the one of `best_step`. A step already there stays.

        Returns as soon as the arrays are copied; the files are written while training goes on.

        Args:
          step: steps done.
          evaluation: parameters and running statistics to predict with.
          training: the rest of the state, nothing twice.
          metadata: what JSON can hold.
          best_step: the checkpoint to keep besides this one.
        """
        latest = self.latest_step  # after the save before this one, which needs its own best step
        self._best.step = best_step
        if step != latest:
            # The next training step takes the arrays' memory.
            content = _copied({EVALUATION: evaluation, TRAINING: _by_path(training)})
            self._checkpointer.save_checkpointables_async(step, content, custom_metadata=metadata, force=True)

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata of a step."""
        self._checkpointer.wait()
        return dict(self._checkpointer.metadata(step).custom_metadata)

    def restore(self, step: int, *, evaluation: Any, training: Any) -> tuple[Any, Any]:
        """Reads a step into arrays of the shapes, dtypes and shardings of the given (abstract) trees."""
        self._checkpointer.wait()
        restored = self._checkpointer.load_checkpointables(step, {EVALUATION: evaluation, TRAINING: _by_path(training)})
        return restored[EVALUATION], jax.tree.unflatten(jax.tree.structure(training), restored[TRAINING].values())

    def close(self) -> None:
        """Waits for what is under way."""
        self._checkpointer.close()


_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves by their paths: Orbax takes time for every node, and a masked optimiser state has thousands."""
    return {
        f"{number:05d}{jax.tree_util.keystr(path)}": leaf
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    }


def best_metadata(workdir: str | os.PathLike[str]) -> tuple[int, dict[str, Any]]:
    """Step and metadata of the best checkpoint of a run, else of the latest where none was evaluated yet.

    Raises:
      UsageError: no run or no checkpoint there.
    """
    folder = pathlib.Path(workdir).absolute() / FOLDER
    steps = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()) if folder.is_dir() else []
    if not steps:
        raise UsageError(f"{str(workdir)!r} holds no checkpoint: give the workdir of a run that has saved one")
    latest = _metadata(folder / str(steps[-1]))
    best_step = latest["progress"]["best_step"] or steps[-1]
    return best_step, latest if best_step == steps[-1] else _metadata(folder / str(best_step))


def _metadata(folder: pathlib.Path) -> dict[str, Any]:
    """What was saved as metadata with the checkpoint in a folder."""
    try:
        # Orbax keeps it as JSON, but on the way to it describes every array: half a second of the start of a command.
        return dict(json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"])
    except (OSError, ValueError, KeyError, TypeError):  # another version of Orbax
        return dict(ocp.checkpointables_metadata(folder).custom_metadata)


def restore_for_evaluation(workdir: str | os.PathLike[str], step: int, tree: Any) -> Any:
    """The parameters and statistics to predict with, in the shapes, dtypes and shardings of an (abstract) tree."""
    folder = pathlib.Path(workdir).absolute() / FOLDER / str(step)
    return ocp.load_checkpointables(folder, {EVALUATION: tree})[EVALUATION]


def abstract(tree: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    """Shapes and dtypes of a tree of arrays, with the sharding to restore them to: the given one or their own."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding or leaf.sharding), tree
    )
