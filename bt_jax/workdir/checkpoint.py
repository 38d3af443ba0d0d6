"""Checkpoints of a run: the latest two and the best. The only module that imports Orbax."""

import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from bt_jax.common import files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.distributed import processes
from bt_jax.workdir import checksums, remote

FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"
# The parts of a checkpoint besides the metadata; predictions read only `evaluation`.
EVALUATION, TRAINING = "evaluation", "training"

_METADATA = "_CHECKPOINT_METADATA"
_LATEST = 2  # kept, so that the run can resume from the other if one is damaged

_policies = ocp.training.preservation_policies


@dataclasses.dataclass
class _Kept(_policies.PreservationPolicy):  # type: ignore[name-defined]
    """A policy that keeps the latest checkpoints, and the best one as of each of them."""

    best: dict[int, int | None] = dataclasses.field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Returns one flag for each checkpoint."""
        del context
        latest = sorted(info.step for info in checkpoints)[-_LATEST:]
        kept = {*latest, *(self.best.get(step) for step in latest)}
        return [info.step in kept for info in checkpoints]


class Checkpoints:
    """The checkpoints in a workdir.

    Each is written under a temporary name, renamed when complete, and sealed by checksums. On opening, damaged
    checkpoints are moved aside, each with a warning; `damaged` has their steps. All processes of a run call all methods
    at the same steps.

    Args:
      workdir: of the run.
      warn: called with one line for each damaged checkpoint.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, warn: Callable[[str], None] = print):
        self.workdir = str(workdir)
        self._folder = _get_folder(workdir)
        with waiting.report("comparing the checkpoints with their checksums", say=processes.say):
            self.damaged = tuple(
                step for step in _list_steps(self._folder) if _set_aside_if_damaged(self._folder, step, warn)
            )
        self._kept = _Kept({step: _read_best_step(self._folder / str(step)) for step in _list_steps(self._folder)})
        self._saving: int | None = None
        self._response: Any = None
        self._sealing: tuple[int, threading.Thread] | None = None
        self._failure: BaseException | None = None
        self._checkpointer = ocp.training.Checkpointer(
            self._folder, preservation_policy=self._kept, cleanup_tmp_directories=True
        )

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        self._wait()
        return [info.step for info in self._checkpointer.checkpoints]

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return max(self.steps, default=None)

    def save(
        self, step: int, *, evaluation: Any, training: Any, metadata: dict[str, Any], best_step: int | None
    ) -> None:
        """Writes a checkpoint, then removes all but this one, the one before, and the best as of either.

        An existing step is kept. Returns as soon as the arrays are copied; the files are written in the background.

        Args:
          step: number of steps done.
          evaluation: parameters and running statistics to predict with.
          training: the rest of the state, without duplicates.
          metadata: values that JSON can hold.
          best_step: step of the checkpoint to keep besides this one.

        Raises:
          UsageError: the previous checkpoint could not be written, for example to a full disk. Earlier ones are intact.
        """
        latest = self.latest_step  # after the save before this one, which needs its own best step
        self._kept.best[step] = best_step
        if step != latest:
            # The next training step reuses the arrays' memory.
            content = _copied({EVALUATION: evaluation, TRAINING: _flatten_by_path(training)})
            self._saving = step
            with self._report_errors_in_one_line():
                self._response = self._checkpointer.save_checkpointables_async(
                    step, content, custom_metadata=metadata, force=True
                )

    def seal_if_complete(self) -> None:
        """Seals the checkpoint being saved if it is complete, and returns at once. Call it after every step."""
        if self._saving is not None and not self._checkpointer.is_saving_in_progress():
            self._seal()

    def read_metadata(self, step: int) -> dict[str, Any]:
        """Returns the metadata of a step."""
        self._wait()
        return dict(self._checkpointer.metadata(step).custom_metadata)

    def restore(self, step: int, *, evaluation: Any, training: Any) -> tuple[Any, Any]:
        """Reads a step into arrays with the shapes, dtypes and shardings of the given (abstract) trees."""
        self._wait()
        content = {EVALUATION: evaluation, TRAINING: _flatten_by_path(training)}
        with waiting.report(f"restoring the checkpoint of step {step}", say=processes.say):
            restored = self._checkpointer.load_checkpointables(step, content)
        return restored[EVALUATION], jax.tree.unflatten(jax.tree.structure(training), restored[TRAINING].values())

    def close(self) -> None:
        """Waits for saves in progress and closes the checkpointer."""
        if self._failure is not None:  # reported already
            with contextlib.suppress(Exception):
                self._checkpointer.close()
            return
        self._wait()
        self._checkpointer.close()

    def _wait(self) -> None:
        with self._report_errors_in_one_line():
            self._checkpointer.wait()
            if self._response is not None:  # its thread, with three open files, ends when the result is read
                self._response.result()
                self._response = None
        if self._saving is not None:
            self._seal()
        if self._sealing is not None:
            step, thread = self._sealing
            thread.join()
            self._sealing = None
            if not checksums.is_sealed(self._folder / str(step)):
                self._fail(OSError("its list of checksums could not be written: is the disk full?"), step)

    def _seal(self) -> None:
        step, self._saving = self._saving, None
        assert step is not None
        if processes.is_first() and (self._folder / str(step)).exists():  # else the save failed, which `_wait` reports
            thread = threading.Thread(target=_seal, args=(self._folder / str(step),), daemon=True)
            thread.start()
            self._sealing = step, thread

    @contextlib.contextmanager
    def _report_errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._fail(error, self._saving)

    def _fail(self, error: Exception, step: int | None) -> None:
        self._failure = error
        good = [found for found in _list_steps(self._folder) if found != step]
        text = " ".join(str(error).split())
        reason = next((known for known in _REASONS if known.lower() in text.lower()), text[:300])
        kept = f"the last good one is of step {good[-1]}" if good else "there is none before it"
        raise UsageError(
            f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}); {kept}: "
            f"free some space and run the same command to resume from there"
        ) from error


_REASONS = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def _seal(folder: epath.Path) -> None:
    with contextlib.suppress(OSError):  # a full disk: `_wait` notices the missing list
        checksums.seal(folder)


def _get_folder(workdir: str | os.PathLike[str]) -> epath.Path:
    """Returns the folder with the checkpoints of a workdir: in it, or in the bucket that it is a copy of.

    Raises:
      UsageError: the path is not UTF-8, which Orbax cannot write to or read from.
    """
    files.check_utf8(workdir)
    return (remote.get_bucket(workdir) or epath.Path(workdir).absolute()) / FOLDER


def _list_steps(folder: epath.Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def _set_aside_if_damaged(folder: epath.Path, step: int, warn: Callable[[str], None]) -> bool:
    """Moves a checkpoint aside if one of its files is damaged, in the first process, and returns whether it is."""
    path = folder / str(step)
    sealed, told = 1, ""
    if processes.is_first():
        sealed = int(checksums.is_sealed(path))
        told = (checksums.find_flaw(path) or "") if sealed else ""
    if not processes.broadcast_from_first(
        sealed
    ):  # written by an older version, or by a process that was killed before it sealed the checkpoint
        told = _find_read_error(path)
        damaged = not processes.intersect_flags(np.array([not told]))[0]
    else:
        damaged = bool(processes.broadcast_from_first(int(bool(told))))
    if damaged and processes.is_first():
        aside = folder.parent / DAMAGED / str(step)
        warn(f"warning: the checkpoint of step {step} is damaged ({told}): it was moved to {aside} and is not used")
        if aside.exists():
            aside.rmtree()
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)
    if damaged:
        processes.wait_for_all(f"the checkpoint of step {step} is set aside")
    return damaged


def _find_read_error(path: epath.Path) -> str:
    """Returns why a checkpoint without checksums cannot be read; empty if it can."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # whatever devices it was written from
    try:
        dict(json.loads((path / _METADATA).read_bytes())["custom_metadata"])
        shapes = ocp.checkpointables_metadata(path).metadata
        wanted = {
            name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes[name])
            for name in (EVALUATION, TRAINING)
        }
        ocp.load_checkpointables(path, wanted)
    except Exception as error:  # Orbax and TensorStore raise many kinds
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _read_best_step(folder: epath.Path) -> int | None:
    best: int | None = _read_metadata(folder).get("progress", {}).get("best_step")
    return best


def _flatten_by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path: Orbax takes time for every node, and a masked optimiser state has thousands."""
    return {
        f"{number:05d}{jax.tree_util.keystr(path)}": leaf
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    }


def read_last_metadata(workdir: str | os.PathLike[str]) -> tuple[int, dict[str, Any]]:
    """Returns step and metadata of the last intact checkpoint of a run.

    Raises:
      UsageError: the folder holds no run or no intact checkpoint.
    """
    folder = _get_folder(workdir)
    for step in reversed(_list_steps(folder)):
        if metadata := _read_intact_metadata(folder / str(step)):
            return step, metadata
    raise UsageError(f"{str(workdir)!r} holds no intact checkpoint: give the workdir of a run that saved one")


def read_best_metadata(workdir: str | os.PathLike[str]) -> tuple[int, dict[str, Any]]:
    """Returns step and metadata of the best checkpoint of a run, or of the latest if none has been evaluated.

    Skips damaged checkpoints, with a warning.

    Raises:
      UsageError: the folder holds no run or no usable checkpoint.
    """
    folder = _get_folder(workdir)
    steps = _list_steps(folder)
    if not steps:
        raise UsageError(f"{str(workdir)!r} holds no checkpoint: give the workdir of a run that saved one")
    for step in reversed(steps):
        latest = _read_intact_metadata(folder / str(step), parts=(_METADATA,))
        if latest is None:
            continue
        best = latest["progress"]["best_step"] or step
        for chosen in (best, step):
            if chosen in steps and (metadata := _read_intact_metadata(folder / str(chosen))):
                if (chosen, step) != (best, steps[-1]):
                    line = (
                        f"warning: the best checkpoint in {workdir} is damaged or missing: using that of step {chosen}"
                    )
                    print(line, file=sys.stderr)
                return chosen, metadata
    raise UsageError(f"the checkpoints in {str(workdir)!r} are damaged: run the training again to replace them")


def _read_intact_metadata(folder: epath.Path, parts: Sequence[str] = (EVALUATION, _METADATA)) -> dict[str, Any] | None:
    """Returns the metadata of a checkpoint; None if a part needed for predictions is damaged."""
    if checksums.is_sealed(folder) and checksums.find_flaw(folder, parts=parts):
        return None
    return _read_metadata(folder)


def _read_metadata(folder: epath.Path) -> dict[str, Any]:
    """Reads the metadata saved with the checkpoint in a folder."""
    try:
        # The file is JSON. Orbax's own reader also describes every array, which takes half a second.
        return dict(json.loads((folder / _METADATA).read_bytes())["custom_metadata"])
    except (OSError, ValueError, KeyError, TypeError):  # another version of Orbax
        return dict(ocp.checkpointables_metadata(folder).custom_metadata)


def restore_for_evaluation(workdir: str | os.PathLike[str], step: int, tree: Any) -> Any:
    """Reads the parameters and statistics to predict with, as the shapes, dtypes and shardings of a tree say."""
    folder = _get_folder(workdir) / str(step)
    return ocp.load_checkpointables(folder, {EVALUATION: tree})[EVALUATION]


def make_abstract(tree: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    """Returns shapes and dtypes of a tree of arrays, with the given sharding or, if None, their own."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding or leaf.sharding), tree
    )
