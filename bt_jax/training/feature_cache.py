"""Features that frozen layers compute from the training images, once, on disk: epochs then cost only what trains."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.augment import augment, encode_seed, reduce_size
from bt_jax.data.augment.settings import Augmentation
from bt_jax.distributed import processes, sharding
from bt_jax.inference.forward import prefers_pairs
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.training.feature_store import FeatureStore
from bt_jax.training.stages import Stage

_FORMAT = 2  # of the files
_BATCH = 32  # images in a forward, on each device
_BLOCK = 256  # images in a file, about: what a run that is killed computes again


_Place = tuple[int, int]  # a view and a block of images


@dataclasses.dataclass(frozen=True)
class Cut:
    """A cut of the network into a frozen lower part, whose outputs are cached, and an upper part that trains on them.

    Attributes:
      segment: number of the first segment of the upper part.
      name: of that segment.
      shape: of the features of an image.
      below: a lower cut that later stages start from; the features are then computed from its features instead of the
        images, so that no layer is computed twice.
    """

    segment: int
    name: str
    shape: tuple[int, ...]
    below: "Cut | None" = None


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of all training images in some views: by view, blocks of [block size, ...] float32."""

    blocks: dict[int, list[np.ndarray]]

    def get_rows(self, view: int, records: Sequence[int]) -> np.ndarray:
        """Returns the features of some images, [len(records), ...] float32 in memory."""
        blocks = self.blocks[view]
        size = len(blocks[0])
        return np.stack([blocks[record // size][record % size] for record in records])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Reads features from disk or computes them.

    An entry is a folder, named by a hash of everything that the features depend on. The lowered program, which augments
    too, is part of it, so that changed code makes another entry. Each file holds a block of images in one
    view, bare float32 values in row order; its name ends with their checksum.

    Attributes:
      network: whose lower segments are frozen.
      normalisation: from grey pixels to what the network expects.
      dtype: of the computation.
      mesh: the devices that compute.
      images: [N, S, S] uint8, preprocessed.
      augmentation: of the images; None: their only view is as they are.
      image_size: side in pixels that the images are reduced to first; 0: they stay as they are.
      seed: of the augmentation.
      views: different augmentations of an image.
      limit: bytes for one cut, and for all entries together; the least recently used ones make room.
      folder: of the entries.
    """

    network: Network
    normalisation: Normalisation
    dtype: jnp.dtype
    mesh: Mesh
    images: np.ndarray
    augmentation: Augmentation | None
    image_size: int = 0
    seed: int
    views: int
    limit: int
    folder: pathlib.Path
    # By the segments of a cut and of that below. They augment, so the cache of the validation images has others.
    _programs: dict[tuple[int, int | None], Any] = dataclasses.field(default_factory=dict, init=False)

    def copy_for_plain(self, images: np.ndarray) -> "FeatureCache":
        """Returns the same cache for other images [N, S, S] uint8 in one view: as they are."""
        return dataclasses.replace(self, images=images, augmentation=None, image_size=0, views=1)

    def choose_cuts(
        self, plan: Sequence[Stage], params: Tree, batch_stats: Tree, *, lowest_segment: str, steps_per_epoch: int
    ) -> dict[int, Cut]:
        """Returns the cuts to use, by the `program_segment` of the stages that start from them.

        There is none for stages that see no image twice. There is none for features larger than the limit either, which
        is printed.

        Args:
          plan: the stages.
          params: of the whole network.
          batch_stats: of the whole network.
          lowest_segment: the lowest cut to use; empty is the head.
          steps_per_epoch: of the plan.
        """
        names = self.network.segment_names
        lowest = find_lowest_cut(lowest_segment, names)
        found: dict[int, Cut] = {}
        below = None
        for segment in sorted({stage.program_segment for stage in plan if stage.program_segment >= lowest}):
            length = sum(stage.steps for stage in plan if stage.program_segment == segment)
            if not self.views or length <= steps_per_epoch:
                continue
            program = self._get_program(segment, below)
            inputs = encode_seed(self.seed), *self._describe_inputs(below)
            shape = jax.eval_shape(program, params, batch_stats, *inputs).shape[1:]
            cut = Cut(segment, names[segment], shape, below)
            size = self._count_bytes(cut, views=self.views)
            if size <= self.limit:
                found[segment] = below = cut
            else:
                processes.say(
                    f"note: {self.views} views of the features before {cut.name} take {size / 1e9:.2g} GB, more than "
                    f"config.train.cache_limit_gb ({self.limit / 1e9:g}): these stages compute them in every epoch"
                )
        return found

    def get_features(
        self, cut: Cut, params: Tree, batch_stats: Tree, *, views: Sequence[int], interrupted: Callable[[], bool]
    ) -> Features | None:
        """Returns the features of some views, read from disk or computed; None when `interrupted` became true.

        Args:
          cut: one of `choose_cuts`.
          params: of the whole network, on the mesh.
          batch_stats: of the whole network, on the mesh.
          views: numbers of views, in the order in which they are computed.
          interrupted: asked before each block.
        """
        params, batch_stats = sharding.gather((params, batch_stats), self.mesh)
        store = FeatureStore(self.folder / self._compute_key(cut, params, batch_stats))
        places = [(view, block) for view in views for block in range(-(-len(self.images) // self._block))]
        found = self._read_blocks(store, cut, places)
        missing = [place for place in places if place not in found]
        begin = time.monotonic()
        if missing:
            if interrupted():
                return None
            read = self._read_images
            if cut.below:
                needed = list(dict.fromkeys(view for view, _ in missing))
                features_below = self.get_features(
                    cut.below, params, batch_stats, views=needed, interrupted=interrupted
                )
                if features_below is None:
                    return None
                read = functools.partial(_read_features, features_below)
            begin = time.monotonic()
            self._make_room(store, self._count_bytes(cut, views=len(views)))
            program = self._lower(cut, params, batch_stats).compile()
            compute = functools.partial(self._compute, program, params, batch_stats, read)
            if not self._compute_blocks(compute, store, missing, found, total=len(views), interrupted=interrupted):
                return None
        self._print_summary(cut, len(views), len(places), len(missing), seconds=time.monotonic() - begin)
        if store.error is not None:
            tqdm.tqdm.write(f"note: features are kept in memory only: {store.error}")
        return Features({view: [found[place] for place in places if place[0] == view] for view in views})

    def _read_blocks(self, store: FeatureStore, cut: Cut, places: Sequence[_Place]) -> dict[_Place, np.ndarray]:
        """Returns the blocks on disk that every host can read: all hosts compute together what one of them lacks."""
        found = {}
        for view, block in places:
            values = store.read(view, block, shape=(len(self._get_records(block)), *cut.shape))
            if values is not None:
                found[view, block] = values
        here = processes.intersect_flags(np.array([place in found for place in places]))
        return {place: found[place] for place, held in zip(places, here, strict=True) if held}

    def _make_room(self, store: FeatureStore, size: int) -> None:
        """Removes old entries so that `size` bytes fit, on the first host: hosts may share the folder."""
        if processes.is_first():
            store.make_room(self.limit - size)
        processes.wait_for_all("room for features")

    def _compute_blocks(
        self,
        compute: Callable[[int, range], np.ndarray],
        store: FeatureStore,
        missing: Sequence[_Place],
        found: dict[_Place, np.ndarray],
        *,
        total: int,
        interrupted: Callable[[], bool],
    ) -> bool:
        """Adds the missing blocks to `found` and writes them; False when `interrupted` became true."""
        with tqdm.tqdm(
            total=total * len(self.images),
            initial=sum(map(len, found.values())),
            desc="features",
            unit=" images",
            leave=False,
            disable=not processes.is_first(),
        ) as bar:
            for view, block in missing:
                if interrupted():
                    return False
                values = compute(view, self._get_records(block))
                found[view, block] = store.write(view, block, values)
                bar.update(len(values))
        return True

    def _print_summary(self, cut: Cut, views: int, files: int, missing: int, *, seconds: float) -> None:
        how = f"computed in {seconds:.1f} s" if missing else "found"
        if missing and missing < files:
            how = f"{files - missing} of {files} files found, the others {how}"
        processes.say(
            f"features before {cut.name}: {views} view{'s' * (views > 1)} of {len(self.images)} images, "
            f"{self._count_bytes(cut, views=views) / 1e6:.1f} MB, {how}"
        )

    def _get_records(self, block: int) -> range:
        """Returns the numbers of the images in a block."""
        return range(block * self._block, min((block + 1) * self._block, len(self.images)))

    def _describe_inputs(self, below: Cut | None) -> tuple[jax.ShapeDtypeStruct, ...]:
        size = _BATCH * self.mesh.size
        if below:
            return (jax.ShapeDtypeStruct((size, *below.shape), np.float32),)
        number = jax.ShapeDtypeStruct((size,), np.uint32)
        return jax.ShapeDtypeStruct((size, *self.images.shape[1:]), np.uint8), number, number

    @property
    def _block(self) -> int:
        """Images in a block. Whole batches: an image is always computed in the same batch, and so to the same bits."""
        batch = _BATCH * self.mesh.size
        return batch * max(1, _BLOCK // batch)

    def _count_bytes(self, cut: Cut, *, views: int) -> int:
        return views * len(self.images) * int(np.prod(cut.shape)) * 4

    def _get_program(self, segment: int, below: Cut | None) -> Any:
        """Returns the jitted program of a cut.

        It maps (params, batch_stats, seed, images [B, S, S] uint8, view [B] uint32, record [B] uint32), or (params,
        batch_stats, seed, features of the cut below [B, ...] float32), to features [B, ...] float32.
        """
        key = segment, None if below is None else below.segment
        if key not in self._programs:
            self._programs[key] = self._create_program(segment, below)
        return self._programs[key]

    def _lower(self, cut: Cut, params: Tree, batch_stats: Tree) -> Any:
        program = self._get_program(cut.segment, cut.below)
        return program.lower(params, batch_stats, encode_seed(self.seed), *self._describe_inputs(cut.below))

    def _create_program(self, segment: int, below: Cut | None) -> Any:
        names = self.network.segment_names

        def outputs(params: Tree, batch_stats: Tree, seed: jax.Array, x: jax.Array, *numbers: jax.Array) -> jax.Array:
            if not below and self.image_size:
                x = reduce_size(x, self.image_size)
            if not below and self.augmentation is not None:
                x = augment(x, *numbers, seed=seed, settings=self.augmentation)
            x = x.astype(self.dtype) if below else self.normalisation(x, dtype=self.dtype)
            x, _ = self.network.apply(
                params,
                batch_stats,
                x,
                start=below.name if below else None,
                stop=names[segment],
                by_pairs=prefers_pairs(self.mesh.devices.flat),
            )
            if segment == len(names) - 1 and self.network.pooled_head:
                # Such a head begins with global average pooling, which leaves a map of one pixel as it is.
                x = x.mean((1, 2), keepdims=True)
            return x.astype(jnp.float32)

        everywhere, by_row = sharding.get_replicated_sharding(self.mesh), sharding.get_batch_sharding(self.mesh)
        inputs = [by_row] * len(self._describe_inputs(below))
        return jax.jit(outputs, in_shardings=(*[everywhere] * 3, *inputs), out_shardings=everywhere)

    def _compute_key(self, cut: Cut, params: Tree, batch_stats: Tree) -> str:
        program = self._lower(cut, params, batch_stats).as_text()
        weights = {name: (params[name], batch_stats.get(name)) for name in self.network.segment_names[: cut.segment]}
        facts = {
            "format": _FORMAT,
            "jax": jax.__version__,
            "devices": [device.device_kind for device in self.mesh.devices.flat],
            "program": _hash(program.encode()),
            "seed": None if self.augmentation is None else self.seed,
            "weights": _hash(*(np.asarray(leaf) for leaf in jax.tree.leaves(weights))),
            "images": _hash(getattr(self.images, "identity", self.images)),  # lazy ones know without being read
            "block": self._block,
            "below": self._compute_key(cut.below, params, batch_stats) if cut.below else None,
        }
        return _hash(json.dumps(facts, sort_keys=True).encode())[:32]

    def _compute(
        self,
        program: Any,
        params: Tree,
        batch_stats: Tree,
        read: Callable[[int, Sequence[int]], tuple[np.ndarray, ...]],
        view: int,
        records: range,
    ) -> np.ndarray:
        """Computes the features of some records in a view, [len(records), *shape] float32; `read` gives the inputs."""
        outputs = []
        size = _BATCH * self.mesh.size
        for start in range(0, len(records), size):
            inputs = [_pad(part, size) for part in read(view, records[start : start + size])]
            placed = jax.device_put(inputs, sharding.get_batch_sharding(self.mesh))
            # Not waited for: the next ones are read meanwhile.
            outputs.append(program(params, batch_stats, encode_seed(self.seed), *placed))
        return np.concatenate([np.asarray(output) for output in outputs])[: len(records)]

    def _read_images(self, view: int, records: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Returns images [len(records), S, S] uint8, and the numbers of their view and of themselves."""
        numbers = np.array(records, np.uint32)
        return self.images[np.array(records)], np.full_like(numbers, view), numbers


def _read_features(features: Features, view: int, records: Sequence[int]) -> tuple[np.ndarray, ...]:
    return (features.get_rows(view, records),)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Adds zeros up to `size` rows."""
    padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def find_lowest_cut(segment: str, segment_names: Sequence[str]) -> int:
    """Returns the number of the lowest segment whose inputs may be cached: that of `segment`, or of the head.

    Raises:
      UsageError: the network has no such segment.
    """
    if segment and segment not in segment_names:
        raise UsageError(f"config.train.cached_segment is {segment!r}: use one of {', '.join(segment_names)}")
    return max(1, segment_names.index(segment or segment_names[-1]))  # below the first segment nothing is computed


def _hash(*contents: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content).data)
    return digest.hexdigest()
