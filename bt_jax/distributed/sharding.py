"""Sharding over the devices of all hosts: one mesh, batches by row, the state replicated or divided by path."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bt_jax.common.errors import UsageError

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """Makes a one-dimensional mesh of all devices of all hosts, for data parallelism."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def get_replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def get_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that divides the first axis among the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def get_host_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Returns the indices, ascending, of the rows of a batch that the devices of this host hold.

    Args:
      mesh: from `make_mesh`.
      rows: number of rows of the batch over all hosts, a multiple of the number of devices.
    """
    held = get_batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held]))


def make_transfer(mesh: Mesh) -> Callable[[Any], Any]:
    """Returns a function that maps trees with the rows of this host (`get_host_rows`) to global arrays on the mesh."""
    sharding = get_batch_sharding(mesh)
    if jax.process_count() == 1:
        return functools.partial(jax.device_put, device=sharding)
    return lambda batch: jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )


def gather(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays on every device."""
    if all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return _make_gather(mesh)(tree)


@functools.lru_cache(maxsize=1)
def _make_gather(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=get_replicated_sharding(mesh))


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Rules for the parameters that are divided among the devices, with their moments and their averages.

    A divided array takes a share of each device's memory and is gathered in every step. It is divided along the longest
    axis whose length is a multiple of the number of devices; without such an axis it is replicated.

    Attributes:
      pattern: regular expression, searched in the path of an array, such as `block_12/kernel`; empty: all are
        replicated.
      least: size from which an array is divided: many small messages cost more time than they save memory.
    """

    pattern: str = ""
    least: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"config.mesh.sharded is {self.pattern!r}, no regular expression: {error}") from error

    def make_shardings(self, state: Any, mesh: Mesh) -> Any:
        """Returns the sharding of every array of a training state or of a tree of parameters."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(mesh, self._choose_spec(get_path(path), leaf.shape, mesh.size)), state
        )

    def _choose_spec(self, path: str, shape: tuple[int, ...], devices: int) -> PartitionSpec:
        axes = [axis for axis, length in enumerate(shape) if length % devices == 0]
        if not self.pattern or not axes or int(np.prod(shape)) < self.least or not re.search(self.pattern, path):
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, DATA_AXIS)


def get_path(path: tuple[Any, ...]) -> str:
    """Returns the path of the parameters that an array of a state belongs to, such as `stem/kernel`.

    Parameters, their moments and their averages have the same path. Arrays of no parameters have an empty path.
    """
    names: list[str] = []
    for key in reversed(path):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.insert(0, str(key.key))
    return "/".join(names[1:] if names[:1] in (["params"], ["batch_stats"]) else names)


def describe(state: Any, mesh: Mesh) -> str:
    """Describes the number of devices and hosts, and the memory of a state on each device."""
    leaves = jax.tree.leaves(state)
    total = sum(leaf.nbytes for leaf in leaves)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    of_hosts = f" of {jax.process_count()} hosts" * (jax.process_count() > 1)
    return f"devices: {mesh.size}{of_hosts}; {held / 1e6:.1f} of {total / 1e6:.1f} MB of the training state on each"


def place(state: Any, shardings: Any) -> Any:
    """Places a state that is equal on every host on the devices, with the given shardings."""
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    return jax.tree.map(_place_leaf, state, shardings)


def _place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
