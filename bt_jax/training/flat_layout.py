"""A tree of parameters as a few large arrays, so that an update is a few large operations.

EfficientNet-B1 has 340 parameters, most of them small. Updated one by one, with two moments and an average each, they
take more of a step's compile time than the network does, and on an accelerator thousands of launches for little work.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.models.registry import Tree

# Sizes are rounded up to this, by zeros: up to so many devices then divide an array evenly.
MULTIPLE = 1024

# The kernels of a segment, which decay, and its other parameters.
KERNEL, OTHERS = "kernel", "others"


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """The place of an array in a vector."""

    vector: str
    start: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FlatLayout:
    """How a tree {segment: ...} is laid out as {segment: {`kernel`: [n], `others`: [m]}}.

    A segment has only those vectors that something is in.

    Attributes:
      structure: of the tree.
      leaves: by segment, the place of each array, in the order of the tree.
    """

    structure: Any
    leaves: tuple[tuple[str, tuple[_Leaf, ...]], ...]

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> "FlatLayout":
        """Returns the layout for a tree of arrays or of their shapes."""
        segments = []
        for segment in sorted(tree):
            ends: dict[str, int] = {}
            leaves = []
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree[segment]):
                vector = _choose_vector(path)
                start = ends.get(vector, 0)
                ends[vector] = start + math.prod(leaf.shape)
                leaves.append(_Leaf(vector, start, tuple(leaf.shape)))
            segments.append((segment, tuple(leaves)))
        return cls(jax.tree.structure(dict(tree)), tuple(segments))

    def flatten(self, tree: Mapping[str, Any]) -> Tree:
        """Lays out a tree of this structure, or some segments of it."""
        vectors: Tree = {}
        for segment, leaves in self.leaves:
            if segment not in tree:
                continue
            parts: dict[str, list[jax.Array]] = {}
            for place, leaf in zip(leaves, jax.tree.leaves(tree[segment]), strict=True):
                parts.setdefault(place.vector, []).append(jnp.ravel(leaf))
            vectors[segment] = {name: _join(parts[name]) for name in sorted(parts)}
        return vectors

    def unflatten(self, vectors: Mapping[str, Any]) -> Tree:
        """Returns the tree that was laid out."""
        arrays = [
            jax.lax.slice(vectors[segment][leaf.vector], (leaf.start,), (leaf.start + math.prod(leaf.shape),)).reshape(
                leaf.shape
            )
            for segment, leaves in self.leaves
            for leaf in leaves
        ]
        tree: Tree = jax.tree.unflatten(self.structure, arrays)
        return tree


def _choose_vector(path: tuple[Any, ...]) -> str:
    return KERNEL if path and path[-1].key == KERNEL else OTHERS


def _join(parts: list[jax.Array]) -> jax.Array:
    size = sum(part.size for part in parts)
    return jnp.concatenate([*parts, jnp.zeros(-size % MULTIPLE, parts[0].dtype)])
