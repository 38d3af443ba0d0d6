import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from bt_jax.models import registry, summary
from tests import runs


def segments_of(name, *, size, classes=1000, **options):
    network, params, batch_stats = registry.create(name, classes=classes, size=size, **options)
    return summary.summarise(network, params, batch_stats, size=size), params, network


# Multiplications and additions in the papers' millions: EfficientNet's Table 2 (B0 0.39 B) and, for the Lite models,
# their README (407 M); VGG16 has 15.5 B in torchvision's table.
@pytest.mark.parametrize(
    ("name", "size", "pairs"),
    [("efficientnet_b0", 224, 0.39e9), ("efficientnet_lite0", 224, 407e6), ("vgg16", 224, 15.35e9)],
)
def test_operations_are_those_that_were_published(name, size, pairs):
    parts, _, _ = segments_of(name, size=size)
    assert summary.count_total(parts)[1] / 2 == pytest.approx(pairs, rel=0.06)


@pytest.mark.parametrize("name", ["efficientnet_nano", "efficientnet_lite0", "mlp", "cnn", "vgg16"])
def test_every_parameter_is_in_a_layer(name):
    parts, params, network = segments_of(name, size=32)
    assert tuple(part.name for part in parts) == network.segment_names
    assert summary.count_total(parts)[0] == summary.count_parameters(params)
    for part in parts:
        assert part.parameters == sum(leaf.size for leaf in jax.tree.leaves(params[part.name]))


def test_layers_by_hand():
    """The third block of a tenth of B0: 24x24x8 in, kernel 5 at stride 2, 16 channels out."""
    parts, _, _ = segments_of("efficientnet_nano", size=96, classes=4)
    block = {layer.name: layer for layer in parts[3].layers}
    assert (parts[3].name, parts[3].shape) == ("block_03", (12, 12, 16))
    assert list(block) == [
        "expand", "expand_norm", "depthwise", "depthwise_norm", "squeeze_excite.reduce", "squeeze_excite.expand",
        "project", "project_norm",
    ]  # fmt: skip
    assert block["expand"] == summary.Layer("expand", (24, 24, 48), 8 * 48, 2 * 24 * 24 * 8 * 48)
    assert block["depthwise"] == summary.Layer("depthwise", (12, 12, 48), 25 * 48, 2 * 12 * 12 * 25 * 48)
    assert block["depthwise_norm"] == summary.Layer("depthwise_norm", (12, 12, 48), 96, 0)
    assert block["squeeze_excite.reduce"] == summary.Layer("squeeze_excite.reduce", (2,), 2 * 48 + 2, 2 * 2 * 48)
    assert block["project"] == summary.Layer("project", (12, 12, 16), 48 * 16, 2 * 12 * 12 * 48 * 16)


def test_shapes_are_those_of_a_run():
    parts, params, network = segments_of("efficientnet_nano", size=33, classes=4, hidden=(8,))
    x = jax.numpy.ones((1, 33, 33, 3))
    stats = registry.create("efficientnet_nano", classes=4, size=33, hidden=(8,))[2]
    for part in parts:
        stop = parts[parts.index(part) + 1].name if part is not parts[-1] else None
        x = jax.eval_shape(lambda x, p=part, s=stop: network.apply(params, stats, x, start=p.name, stop=s)[0], x)
        assert part.shape == x.shape[1:]
    assert [layer.name for layer in parts[-1].layers] == ["dense_1", "norm_1", "output"]


@pytest.mark.slow
def test_neighbours_that_are_alike_stand_together():
    parts, _, _ = segments_of("efficientnet_b1", size=240)
    grouped = summary.group_repeated(parts)
    assert [part for group in grouped for part in group] == list(parts)
    assert [len(group) for group in grouped] == [1, 1, 1, 1, 2, 1, 2, 1, 3, 1, 3, 1, 4, 1, 1, 1, 1]


def test_the_table():
    parts, _, _ = segments_of("efficientnet_lite0", size=224)
    lines = summary.format_table(parts).splitlines()
    assert lines[0].split() == ["segment", "layer", "output", "parameters", "MFLOP"]
    assert lines[-1].split() == ["all", "1000", "4,652,008", summary.format_mega(summary.count_total(parts)[1])]
    assert any(line.split()[:3] == ["block_08", "as", "block_07"] for line in lines)
    assert not [line for line in lines if line != line.rstrip()]


def test_the_parameters_of_a_tree_are_counted_and_listed():
    params = {"head": {"output": {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}}}
    assert summary.count_parameters(params) == 16
    assert type(summary.count_parameters(params)) is int
    rows = [line.strip("|").split() for line in summary.format_parameters(params).splitlines() if "head/" in line]
    assert [row[0] for row in rows] == ["head/output/bias", "head/output/kernel"]
    assert rows[1][-1] == "12" and "float32" in rows[1]
    assert summary.format_parameters(params).endswith("Total: 16 -- 64 bytes")


@pytest.mark.parametrize(
    ("flops", "text"), [(0, ""), (2048, "0.00205"), (626_688, "0.627"), (9_248_440_000, "9,248.4")]
)
def test_numbers_can_be_read(flops, text):
    assert summary.format_mega(flops) == text


def picture(tmp_path, name, *flags) -> subprocess.CompletedProcess[str]:
    return runs.run(
        [sys.executable, "-m", "bt_jax.main", "--config=configs/effnet.py:demo", f"--summary={tmp_path / name}", *flags]
    )


def test_the_command_prints_and_draws(tmp_path):
    ended = picture(tmp_path, "model.png", "--config.model.name=efficientnet_nano", "--config.preprocess.size=64")
    assert ended.returncode == 0, ended.stderr
    assert "block_08/project/conv/kernel" in ended.stdout or "block_08/project/kernel" in ended.stdout
    assert "block_08" in ended.stdout and "32 x 32 x 8" in ended.stdout
    with Image.open(tmp_path / "model.png") as image:
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["model.png"]


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("model.jpg", [], "model.jpg is not a picture file: use a name that ends in .svg or .png"),
        ("model.svg", ["--config.model.name=resnet"], "there is no model 'resnet'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, name, flags, said):
    ended = picture(tmp_path, name, *flags)
    assert ended.returncode == 2 and said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
