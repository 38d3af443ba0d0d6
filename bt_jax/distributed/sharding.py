"""How arrays lie on the devices of all hosts: one mesh, batches by rows, the state whole or divided by path."""

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
    """All devices of all hosts in one row: data parallelism."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def get_replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def get_batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def get_host_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which rows of a batch the devices of this host hold: their numbers, ascending.

    Args:
      mesh: from `make_mesh`.
      rows: of the batch over all hosts, a multiple of the devices.
    """
    held = get_batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held]))


def make_transfer(mesh: Mesh) -> Callable[[Any], Any]:
    """From the rows that this host holds (`get_host_rows`), in trees of arrays, to arrays of all rows on the mesh."""
    sharding = get_batch_sharding(mesh)
    if jax.process_count() == 1:
        return functools.partial(jax.device_put, device=sharding)
    return lambda batch: jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )


def gather(tree: Any, mesh: Mesh) -> Any:
    """The same arrays whole on every device, wherever their parts are."""
    if all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return _make_gather(mesh)(tree)


@functools.lru_cache(maxsize=1)
def _make_gather(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=get_replicated_sharding(mesh))


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Which parameters are divided among the devices, each with its moments and its average.

    What is divided takes a share of each device's memory, and is gathered in every step. An array is divided along its
    longest axis that the devices divide evenly; where there is none it stays whole.

    Attributes:
      pattern: regular expression, looked for in a parameter's path, such as `block_12/project/conv/kernel`; empty: all
        are whole on every device.
      least: values that an array must have: many small messages cost more time than they save memory.
    """

    pattern: str = ""
    least: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"config.mesh.sharded is {self.pattern!r}, no regular expression: {error}") from error

    def make_shardings(self, state: Any, mesh: Mesh) -> Any:
        """The sharding of every array of a training state, or of a tree of parameters."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(mesh, self._spec(get_path(path), leaf.shape, mesh.size)), state
        )

    def _spec(self, path: str, shape: tuple[int, ...], devices: int) -> PartitionSpec:
        axes = [axis for axis, length in enumerate(shape) if length % devices == 0]
        if not self.pattern or not axes or int(np.prod(shape)) < self.least or not re.search(self.pattern, path):
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, DATA_AXIS)


def get_path(path: tuple[Any, ...]) -> str:
    """`stem/conv/kernel` of a parameter, of its moments and of its average, wherever they are in a state.

    Empty for what belongs to no parameter.
    """
    names: list[str] = []
    for key in reversed(path):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.insert(0, str(key.key))
    return "/".join(names[1:] if names[:1] in (["params"], ["batch_stats"]) else names)


def describe(state: Any, mesh: Mesh) -> str:
    """How many devices and hosts there are, and what of a state on them is divided."""
    leaves = jax.tree.leaves(state)
    total = sum(leaf.nbytes for leaf in leaves)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    of_hosts = f" of {jax.process_count()} hosts" * (jax.process_count() > 1)
    return f"devices: {mesh.size}{of_hosts}; {held / 1e6:.1f} of {total / 1e6:.1f} MB of the training state on each"


def place(state: Any, shardings: Any) -> Any:
    """A state that every host has alike, on the devices as the shardings say."""
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    return jax.tree.map(_place_leaf, state, shardings)


def _place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
