"""Features that are kept: the right numbers, found again, never found where anything differs, in bounded room."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.augment import augment
from bt_jax.data.augment.augment import compute_views, reduce_size
from bt_jax.data.augment.settings import Augmentation
from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry
from bt_jax.training import feature_cache, stages, start

COUNT, VIEWS = 50, 2
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32), np.uint8)
SETTINGS = Augmentation(flip=True, rotation=0.1, noise=0.05)


@functools.cache
def network():
    """With statistics of images: those it is built with would make next to nothing of any image."""
    made, params, batch_stats = registry.create("efficientnet_nano", classes=4, hidden=(8,), momentum=0.0, seed=1)
    batch_stats = start.calibrate_statistics(made, params, batch_stats, images=IMAGES, normalisation=normalise.LITE)
    return made, *jax.device_put((params, batch_stats), sharding.get_replicated_sharding(sharding.make_mesh()))


NAMES = registry.create_abstract("efficientnet_nano", classes=4)[0].segment_names
HEAD = len(NAMES) - 1


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Two files for each view: 32 images and 18."""
    monkeypatch.setattr(feature_cache, "_BLOCK", 32)


def cache(folder, **changes):
    made = feature_cache.FeatureCache(
        network=network()[0],
        normalisation=normalise.LITE,
        dtype=jnp.dtype("float32"),
        mesh=sharding.make_mesh(),
        images=IMAGES,
        augmentation=SETTINGS,
        seed=3,
        views=VIEWS,
        limit=10**9,
        folder=folder / "features",
    )
    return dataclasses.replace(made, **changes)


def plan(*, count=1, head_epochs=2.0, lowest_segment=""):
    return stages.make_plan(
        NAMES, count=count, head_epochs=head_epochs, epochs=1.0, head_learning_rate=1e-3, learning_rate=1e-3,
        final_learning_rate=1e-3, lowest_segment=lowest_segment, programs=1, steps_per_epoch=10,
    )  # fmt: skip


def cuts(made, *, lowest_segment="", **of_plan):
    return made.choose_cuts(plan(**of_plan), *network()[1:], lowest_segment=lowest_segment, steps_per_epoch=10)


def find_or_compute(made, *, segment=HEAD, views=(0, 1), interrupted=lambda: False, weights=None):
    cut = cuts(made, count=2, lowest_segment=NAMES[segment])[HEAD] if segment == HEAD else deep_cut(made)
    return made.get_features(cut, *(weights or network()[1:]), views=views, interrupted=interrupted)


def deep_cut(made):
    (cut,) = [
        cut for cut in made.choose_cuts(
            plan(count=3, lowest_segment="block_02"), *network()[1:], lowest_segment="block_02", steps_per_epoch=10
        ).values() if cut.name == "block_02"
    ]  # fmt: skip
    return cut


def is_found(made, **options):
    """Whether all is there: nothing is computed for one who gives up at once."""
    return find_or_compute(made, interrupted=lambda: True, **options) is not None


def views_of(view, records):
    numbers = np.full(len(records), view, np.uint32), np.array(records, np.uint32)
    return np.asarray(compute_views(IMAGES[records], *numbers, seed=3, settings=SETTINGS))


@pytest.mark.slow
def test_features_of_smaller_images(tmp_path):
    """They are those of the same images reduced before, and another entry. Validation images keep their size."""
    made, params, batch_stats = network()
    found = {}
    for size in (24, 0):
        training = cache(tmp_path, image_size=size, augmentation=None)
        for name, one in (("training", training), ("validation", training.copy_for_plain(IMAGES))):
            cut = one.choose_cuts(plan(count=2), params, batch_stats, lowest_segment="", steps_per_epoch=10)[HEAD]
            features = one.get_features(cut, params, batch_stats, views=(0,), interrupted=lambda: False)
            found[name, size] = features.get_rows(0, range(COUNT))
    reduced = np.asarray(reduce_size(IMAGES, 24))
    outputs = made.apply(params, batch_stats, normalise.LITE(reduced), stop=NAMES[HEAD])[0]
    expected = np.asarray(outputs).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found["training", 24], expected, rtol=1e-3, atol=3e-5)
    assert np.abs(found["training", 24] - found["training", 0]).max() > 1e-3
    np.testing.assert_array_equal(found["validation", 24], found["training", 0])


@pytest.mark.slow
@pytest.mark.parametrize("segment", [HEAD, NAMES.index("block_02")])
def test_features_are_what_the_network_makes_of_the_views(tmp_path, segment):
    """Each row is the lower part's output for this view of this image; the upper part makes the same logits of it."""
    made, params, batch_stats = network()
    found = find_or_compute(cache(tmp_path), segment=segment)
    records = [49, 0, 31, 32, 7]
    lower = jax.jit(lambda x: made.apply(params, batch_stats, normalise.LITE(x), stop=NAMES[segment])[0])
    upper = jax.jit(lambda x: made.apply(params, batch_stats, x, start=NAMES[segment])[0])
    for view in (0, 1):
        outputs = np.asarray(lower(views_of(view, records)))  # [5, H, W, C]
        rows = found.get_rows(view, records)
        expected = outputs.mean((1, 2), keepdims=True) if segment == HEAD else outputs
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=3e-5)
        np.testing.assert_allclose(upper(rows), upper(outputs), rtol=1e-3, atol=3e-5)
    assert np.abs(found.get_rows(0, records) - found.get_rows(1, records)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mlp", (8,)), ("cnn", (8, 8, 4))])
def test_a_head_that_does_not_pool_gets_features_as_they_are(tmp_path, name, shape):
    """A dense layer would not know an averaged map, where one pixel is as good as many for a pooled head."""
    options = {"mlp": {"hidden": (8,)}, "cnn": {"filters": (2, 4), "hidden": ()}}[name]
    made, params, batch_stats = registry.create(name, classes=4, size=32, **options)
    kept = cache(tmp_path, network=made)
    (cut,) = kept.choose_cuts(
        stages.make_plan(
            made.segment_names, count=1, head_epochs=2.0, epochs=1.0, head_learning_rate=1e-3, learning_rate=1e-3,
            final_learning_rate=1e-3, lowest_segment="", programs=1, steps_per_epoch=10,
        ),
        params, batch_stats, lowest_segment="", steps_per_epoch=10,
    ).values()  # fmt: skip
    assert (cut.name, cut.shape) == ("head", shape)
    rows = kept.get_features(cut, params, batch_stats, views=(1,), interrupted=lambda: False).get_rows(1, [3, 40])
    assert rows.shape == (2, *shape)
    whole = made.apply(params, batch_stats, normalise.LITE(jnp.asarray(views_of(1, [3, 40]))))[0]
    upper = made.apply(params, batch_stats, jnp.asarray(rows), start="head")[0]
    np.testing.assert_allclose(upper, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_features_of_two_cuts_come_from_one_forward(tmp_path, monkeypatch, capsys):
    """Those of the head are made of those of the lower cut, which are made first: no image is computed twice."""
    made = cache(tmp_path)
    both = made.choose_cuts(plan(count=3, lowest_segment="block_02"), *network()[1:], lowest_segment="block_02",
                     steps_per_epoch=10)  # fmt: skip
    lower, upper = both[NAMES.index("block_02")], both[HEAD]
    assert upper.below == lower and lower.below is None
    read = []
    read_images = feature_cache.FeatureCache._read_images
    found = functools.partial(made.get_features, views=(1,), interrupted=lambda: False)
    expected = find_or_compute(cache(tmp_path / "alone"), views=(1,))
    capsys.readouterr()
    monkeypatch.setattr(
        feature_cache.FeatureCache,
        "_read_images",
        lambda self, view, records: (read.extend(records), read_images(self, view, records))[1],
    )
    of_head = found(upper, *network()[1:])
    lines = capsys.readouterr().out.splitlines()
    assert ["before block_02" in lines[0], "before head" in lines[1], len(lines)] == [True, True, 2]
    assert sorted(read) == list(range(COUNT))
    np.testing.assert_allclose(
        of_head.get_rows(1, range(COUNT)), expected.get_rows(1, range(COUNT)), rtol=1e-4, atol=1e-5
    )
    found(lower, *network()[1:])
    assert len(read) == COUNT and capsys.readouterr().out.strip().endswith(", found")
    assert made.get_features(upper, *network()[1:], views=(0,), interrupted=lambda: True) is None


def test_they_are_found_again(tmp_path, capsys):
    first = find_or_compute(cache(tmp_path))
    assert f"features before head: 2 views of {COUNT} images, 0.1 MB, computed in" in capsys.readouterr().out
    second = find_or_compute(cache(tmp_path), interrupted=lambda: True)
    assert capsys.readouterr().out.strip().endswith(", found")
    for view in (0, 1):
        np.testing.assert_array_equal(first.get_rows(view, range(COUNT)), second.get_rows(view, range(COUNT)))
    assert all(isinstance(block, np.memmap) for block in second.blocks[0])


def _scaled(tree, segment):
    return {**tree, segment: jax.tree.map(lambda leaf: leaf * 1.5, tree[segment])}


@pytest.mark.slow
def test_they_are_found_only_where_nothing_differs(tmp_path):
    _, params, batch_stats = network()
    assert find_or_compute(cache(tmp_path), views=(0,)) is not None
    assert is_found(cache(tmp_path, views=5), views=(0,)), "the number of views does not change a view"
    assert is_found(cache(tmp_path), views=(0,), weights=(_scaled(params, "head"), batch_stats)), (
        "the head is not in it"
    )
    pixel = IMAGES.copy()
    pixel[49, 31, 31] ^= 1
    other_network = registry.create("efficientnet_nano", classes=4, hidden=(8,), epsilon=0.01, seed=1)[0]
    for change in (
        {"seed": 4},
        {"augmentation": dataclasses.replace(SETTINGS, flip=False)},
        {"images": pixel},
        {"normalisation": normalise.IMAGENET},
        {"dtype": jnp.dtype("bfloat16")},
        {"network": other_network},
    ):
        assert not is_found(cache(tmp_path, **change), views=(0,)), change
    assert not is_found(cache(tmp_path), views=(0,), weights=(_scaled(params, "block_02"), batch_stats))
    assert not is_found(cache(tmp_path), views=(0,), weights=(params, _scaled(batch_stats, "block_02")))
    assert not is_found(cache(tmp_path), views=(0,), segment=NAMES.index("block_02"))
    assert not is_found(cache(tmp_path), views=(1,))


def test_other_code_of_the_augmentation_is_noticed(tmp_path, monkeypatch):
    find_or_compute(cache(tmp_path), views=(0,))
    darken = {"noise": (9, lambda image, **_: image / 2)}
    monkeypatch.setattr(augment, "_LAST", darken)
    assert not is_found(cache(tmp_path), views=(0,))


def test_one_who_stops_loses_nothing_that_was_written(tmp_path, monkeypatch, capsys):
    whole = find_or_compute(cache(tmp_path / "whole"))
    asked = iter([False, False, False, False, True])
    assert find_or_compute(cache(tmp_path), interrupted=lambda: next(asked)) is None
    (entry,) = (tmp_path / "features").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in entry.iterdir()}
    assert len(before) == 3
    (entry / ".view_000_part_00000_00000000.0123.float32").write_bytes(b"left by a process that was killed")
    computed = []
    compute = feature_cache.FeatureCache._compute
    monkeypatch.setattr(
        feature_cache.FeatureCache, "_compute", lambda self, *a: (computed.append(a[-2:]), compute(self, *a))[1]
    )
    capsys.readouterr()
    resumed = find_or_compute(cache(tmp_path))
    assert computed == [(1, range(32, 50))]
    assert "3 of 4 files found, the others computed" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in entry.iterdir()}
    assert len(after) == 4 and before.items() <= after.items()
    for view in (0, 1):
        np.testing.assert_array_equal(whole.get_rows(view, range(COUNT)), resumed.get_rows(view, range(COUNT)))


@pytest.mark.slow
def test_a_second_entry_makes_room_for_itself(tmp_path):
    both = VIEWS * COUNT * cuts(cache(tmp_path))[HEAD].shape[-1] * 4
    find_or_compute(cache(tmp_path, limit=both))
    find_or_compute(cache(tmp_path, limit=both, seed=9))
    assert len(list((tmp_path / "features").iterdir())) == 1
    assert is_found(cache(tmp_path, seed=9))


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "features").write_text("a file in the place of the folder")
    found = find_or_compute(cache(tmp_path))
    assert "features are kept in memory only: " in capsys.readouterr().out
    expected = find_or_compute(cache(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(found.get_rows(1, range(COUNT)), expected.get_rows(1, range(COUNT)))


def test_which_stages_start_from_features(tmp_path, capsys):
    made = cache(tmp_path)
    channels = network()[1]["head"]["dense_1"]["kernel"].shape[0]
    found = cuts(made, count=3)
    assert {segment: cut.name for segment, cut in found.items()} == {HEAD: "head"}
    assert found[HEAD].shape == (1, 1, channels)
    assert cuts(made, head_epochs=1.0) == {}, "nothing is used twice"
    assert cuts(dataclasses.replace(made, views=0)) == {}
    assert set(cuts(made, count=3, lowest_segment="stem")) == {HEAD}, "nothing is frozen below the first segment"
    deep = made.choose_cuts(plan(count=3, lowest_segment="block_02"), *network()[1:], lowest_segment="block_02",
                     steps_per_epoch=10)  # fmt: skip
    assert set(deep) == {NAMES.index("block_02"), HEAD}
    assert len(deep[NAMES.index("block_02")].shape) == 3
    capsys.readouterr()
    assert cuts(dataclasses.replace(made, limit=1000)) == {}
    assert capsys.readouterr().out.startswith("note: 2 views of the features before head take")
    with pytest.raises(UsageError, match=r"config\.train\.cached_segment is 'neck': use one of .*head"):
        cuts(made, lowest_segment="neck")


def test_the_folder_is_in_the_cache(tmp_path: pathlib.Path):
    """Nothing is written outside of the entry's folder."""
    find_or_compute(cache(tmp_path), views=(1,))
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) == 2
    assert all(name.startswith("features/") and name.count("/") == 2 and "view_001_part_" in name for name in names)
