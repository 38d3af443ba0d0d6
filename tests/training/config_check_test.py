"""Every field of every configuration: wrong values are refused before any data is read, in one line that names it."""

import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import sources
from bt_jax.training import config_check, train
from tests import runs

CONFIGS = [
    (name, variant)
    for name in runs.list_configurations()
    for variant in runs.load_configuration(name).VARIANTS
]  # fmt: skip
NAN, INFINITY = float("nan"), float("inf")
# Of each type: what a field of that type never takes. The text is an unknown name, no regular expression, no path, and
# neither a span of steps nor a probe.
WRONG: dict[type, tuple[Any, ...]] = {
    bool: (None, 1, 0.5, "True"),
    int: (None, "1", True, 1.5, NAN, INFINITY, -2, (1,)),
    float: (None, "1.0", True, NAN, INFINITY, -INFINITY, -1.0, (0.5,)),
    str: (None, 1, True, NAN, ("none",), "(:nonsense"),
    tuple: (None, 2, "2", (True, True), (1.5, 1.5), (NAN, NAN), ("2", "2"), (-1, -1)),
}


def load(name: str, variant: str = "") -> ml_collections.ConfigDict:
    config: ml_collections.ConfigDict = runs.load_configuration(name).get_config(variant)
    return config


def change(config: ml_collections.ConfigDict, **values: Any) -> ml_collections.ConfigDict:
    """A copy with other values, of any type; `__` stands for the dot."""
    fields = config.to_dict()
    for name, value in values.items():
        *group, field = name.replace("__", ".").split(".")
        (fields[group[0]] if group else fields)[field] = value
    return ml_collections.ConfigDict(fields)


def list_fields(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from list_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def find_error(config: ml_collections.ConfigDict, folder: pathlib.Path) -> str:
    """What a run says that must not come to its data."""
    with pytest.raises(UsageError) as caught:
        train.train_and_evaluate(config, folder)
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"data is opened: {arguments}, {settings}")

    monkeypatch.setattr(sources, "open_source", refuse)


@pytest.mark.parametrize(("name", "variant"), CONFIGS)
def test_every_wrong_value_of_every_field_is_refused(name: str, variant: str, tmp_path: pathlib.Path) -> None:
    config = load(name, variant)
    tried = 0
    for field, value in list_fields(config):
        for wrong in WRONG[type(value)]:
            changed = change(config, **{field: wrong})
            error = find_error(changed, tmp_path)
            both = f"config.preprocess.lower_percentile is 1.0 and upper_percentile {wrong}: use "  # -1, of two fields
            assert error.startswith((f"config.{field} is ", both)), (field, wrong, error)
            assert "\n" not in error, (field, wrong, error)
            tried += 1
    assert tried > 500


@pytest.mark.parametrize(("name", "variant"), CONFIGS)
def test_configurations_are_accepted(name: str, variant: str) -> None:
    config_check.check_config(load(name, variant))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", 2**63, "config.seed is 9223372036854775808: use a whole number from 0 to 9223372036854775807"),
        ("profile", "20:10", "config.profile is '20:10': use START:STOP, two steps counted from 0, such as 10:20"),
        ("model.name", "resnet", "config.model.name is 'resnet': use one of efficientnet_b0, efficientnet_b1, "),
        ("model.fallback", "resnet", "config.model.fallback is 'resnet': use one of efficientnet_b0, "),
        ("model.hidden", (64, 0), "config.model.hidden is (64, 0): use a tuple of whole numbers of 1 or more, "),
        ("model.dropout", 1.5, "config.model.dropout is 1.5: use a number from 0 to 1"),
        (
            "model.weights",
            "imagnet",
            "config.model.weights is 'imagnet', which is no file: give imagenet, none, a file",
        ),
        ("data.dir", "d\udcf1ta", "config.data.dir is 'd\\udcf1ta', which is not UTF-8: rename it"),
        ("data.source", "kaggle", "config.data.source is 'kaggle': use auto, folder or phantoms"),
        ("data.source", "folder", "config.data.source is folder: set config.data.dir to the folder or zip with the "),
        ("data.folds", 1, "config.data.folds is 1: use 2 or more, or 0 for none"),
        ("data.fold", 10, "config.data.fold is 10: use 0 to 9, or -1 for all"),
        ("data.probe", "no:shape=1x1", "config.data.probe is 'no:shape=1x1': use CLASS:CUE=PATTERN or "),
        ("data.probe", "cyst:web", "config.data.probe is 'cyst:web': 'cyst' is none of the classes glioma_tumor, "),
        ("data.balance", "patient", "config.data.balance is 'patient': use one of none, source"),
        (
            "data.phantoms_per_class",
            (8,),
            "config.data.phantoms_per_class is (8,): use two whole numbers, for Training ",
        ),
        ("preprocess.form", "crop", "config.preprocess.form is 'crop': use one of head, stretch"),
        ("preprocess.size", 5000, "config.preprocess.size is 5000: use a whole number of pixels from 1 to 4096"),
        ("preprocess.margin", 2.0, "config.preprocess.margin is 2.0: use a fraction from 0 to 1"),
        ("preprocess.lower_percentile", 99.5, "config.preprocess.lower_percentile is 99.5 and upper_percentile 99.0: "),
        ("augment.rotation", 0.6, "config.augment.rotation is 0.6: use a number from 0 (off) to 0.5"),
        ("loss.class_weights", "1,1,2", "config.loss.class_weights is '1,1,2': use none, balanced, or 4 numbers that "),
        ("loss.class_weights", "1,1,2,nan", "config.loss.class_weights is '1,1,2,nan': use none, balanced, or 4 "),
        ("loss.label_smoothing", 1.1, "config.loss.label_smoothing is 1.1: use a number from 0 to 1"),
        ("optimizer.name", "sgd", "config.optimizer.name is 'sgd': use adam or adamw"),
        ("optimizer.b1", 1.0, "config.optimizer.b1 is 1.0: use a number of 0 or more, below 1"),
        ("stages.count", 0, "config.stages.count is 0: use at least 1"),
        ("stages.epochs", 0.0, "config.stages.epochs is 0.0: use a number above 0"),
        (
            "stages.lowest_segment",
            "block_24",
            "config.stages.lowest_segment is 'block_24': use one of stem, block_01, ",
        ),
        ("schedule.decay", "cosin", "config.schedule.decay is 'cosin': use cosine or none"),
        ("train.batch_size", 0, "config.train.batch_size is 0: use a whole number of 1 or more"),
        ("eval.scale", 0.9, "config.eval.scale is 0.9: use a number from 1 to 2"),
        ("eval.scale", 1.2, "config.eval.scale is 1.2, and config.train.cached_segment is set"),
        ("train.dtype", "float16", "config.train.dtype is 'float16': use auto, float32, bfloat16 or float64"),
        ("train.mixup", 11.0, "config.train.mixup is 11.0: use a number from 0 to 10"),
        (
            "train.mix_style",
            ("stem", "head"),
            "config.train.mix_style is ('stem', 'head'), but 'head' is no segment of efficientnet_lite1 with a map of "
            "features: use stem, block_01, ",
        ),
        (
            "train.mix_style",
            (1,),
            "config.train.mix_style is (1,): use a tuple of names of segments, such as ('stem',)",
        ),
        ("train.cached_segment", "block_24", "config.train.cached_segment is 'block_24': use one of stem, block_01, "),
        ("mesh.sharded", "(", "config.mesh.sharded is '(', no regular expression: missing ), unterminated subpattern"),
        ("eval.every_epochs", 0.0, "config.eval.every_epochs is 0.0: use a number above 0"),
    ],
)
def test_messages(field: str, value: Any, message: str, tmp_path: pathlib.Path) -> None:
    assert find_error(change(load("effnet", "demo"), **{field: value}), tmp_path).startswith(message)


def test_a_folder_that_is_not_there() -> None:
    config = change(load("effnet", "cpu"), data__dir="nowhere")
    with pytest.raises(UsageError, match=r"^config\.data\.dir is 'nowhere', which does not exist: give a folder"):
        config_check.check_config(config)


def test_the_number_of_classes_is_not_known_before_a_folder_is_read() -> None:
    config_check.check_config(change(load("effnet", "cpu"), loss__class_weights="1,2", data__probe="cyst:web"))


@pytest.mark.parametrize(("name", "maps"), [("mlp", "another model"), ("cnn", "conv_1, ")])
def test_segments_that_can_exchange_styles(name: str, maps: str) -> None:
    config = change(load(name, "demo"), train__mix_style=("dense_1",))
    with pytest.raises(UsageError, match=f"but 'dense_1' is no segment of {name} with a map of features: use {maps}"):
        config_check.check_config(config)


def test_larger_images_in_validation() -> None:
    config_check.check_config(change(load("effnet", "demo"), eval__scale=1.2, train__cached_views=0))
    config = change(load("mlp", "demo"), eval__scale=1.2)
    with pytest.raises(UsageError, match=r"^config\.eval\.scale is 1.2, but the head of mlp takes images of one size"):
        config_check.check_config(config)


def test_parts_of_a_batch() -> None:
    config = change(load("effnet", "demo"), train__accumulate=3)
    with pytest.raises(UsageError, match=r"^config\.train\.batch_size is 16: use a multiple of the 1 devices times"):
        config_check.check_config(config)


def test_an_image_too_small_for_the_network() -> None:
    with pytest.raises(UsageError, match=r"set config\.preprocess\.size to 32 or more"):
        config_check.check_config(change(load("vgg16", "demo"), preprocess__size=16))


def test_fields_that_are_missing_or_unknown() -> None:
    config = load("mlp")
    del config.stages.epochs
    with pytest.raises(UsageError, match=r"^config\.stages\.epochs is missing: use a number$"):
        config_check.check_config(config)
    with pytest.raises(UsageError, match=r"^config\.stages\.epoch is no field: did you mean config\.stages\.epochs\?$"):
        config_check.check_config(change(load("mlp"), stages__epoch=2.0))
    with pytest.raises(UsageError, match=r"^mlp has no option depth: it has channels, dropout_rate, hidden$"):
        config_check.check_config(change(load("mlp"), model__depth=2))


def test_a_segment_may_be_one_of_the_fallback_alone() -> None:
    config = change(load("effnet"), model__name="efficientnet_nano", stages__lowest_segment="block_20")
    config_check.check_config(config)
    config_check.check_network(config, "efficientnet_lite1")
    with pytest.raises(UsageError, match=r"^config\.stages\.lowest_segment is 'block_20': use one of stem, .*block_08"):
        config_check.check_network(config, "efficientnet_nano")
    with pytest.raises(UsageError, match=r"^config\.stages\.lowest_segment is 'block_20'"):
        config_check.check_config(change(config, model__fallback=""))


def test_every_rule_is_of_a_field() -> None:
    fields = {field for name, variant in CONFIGS for field, _ in list_fields(load(name, variant))}
    assert config_check.RULES.keys() <= fields


def test_every_field_has_a_rule() -> None:
    fields = {field for name, variant in CONFIGS for field, _ in list_fields(load(name, variant))}
    groups = tuple(f"{group}." for group in config_check.CLASSES)
    assert [field for field in sorted(fields - config_check.RULES.keys()) if not field.startswith(groups)] == []
