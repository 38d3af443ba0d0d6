"""The configurations: each loads, each field is explained where it is set, the code reads each field and no other."""

import ast
import pathlib
import types
from collections.abc import Iterator

import ml_collections
import pytest

from docs import make_configuration
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# The modules that see a configuration; below them there are plain arguments.
DEFAULTS = ROOT / "bt_jax" / "defaults.py"
# A check alone is no use of a field, and the benchmark uses a part of them.
READERS = tuple(
    path
    for path in sorted((ROOT / "bt_jax").rglob("*.py"))
    if "import ml_collections" in path.read_text()
    and path.name not in ("defaults.py", "config_check.py")
    and path.parent.name != "benchmark"
)


def load(path: pathlib.Path) -> types.ModuleType:
    return runs.load_configuration(path.stem)


def leaves(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """Values by field, such as `data.fold`."""
    found: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, ml_collections.ConfigDict) else {name: value}
    return found


def chain(node: ast.AST) -> tuple[str, ...]:
    """`config.a.b` as ("config", "a", "b"); empty for anything but names joined by dots."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := chain(node.value)):
        return (*before, node.attr)
    return ()


def reads(source: str) -> tuple[set[str], set[str]]:
    """Fields that a module reads one by one (`config.a.b`), and groups that it unpacks as a whole (`**config.a`)."""
    tree = ast.parse(source)
    parts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    unpacked = {id(node) for node in _unpacked(tree)}
    fields: set[str] = set()
    groups: set[str] = set()
    for node in ast.walk(tree):
        names = chain(node)
        if names[:1] != ("config",) or id(node) in parts or not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.ctx, ast.Store):
            continue
        if id(node) in called:  # a method, such as to_dict: what it gives out goes into files and tables
            continue
        (groups if id(node) in unpacked else fields).add(".".join(names[1:]))
    return fields, groups


def _unpacked(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg is None:
            yield node.value
        if isinstance(node, ast.Dict):
            yield from (value for key, value in zip(node.keys, node.values, strict=True) if key is None)


def unread(fields: set[str], read: set[str], groups: set[str]) -> list[str]:
    return sorted(field for field in fields - read if field.rpartition(".")[0] not in groups)


def unknown(fields: set[str], read: set[str], groups: set[str]) -> list[str]:
    """What the code reads and no configuration has. A group read bare is neither a field nor unpacked, so it counts."""
    return sorted((read - fields) | (groups - {field.rpartition(".")[0] for field in fields}))


def all_reads() -> tuple[set[str], set[str]]:
    each = [reads(path.read_text()) for path in READERS]
    return set().union(*(fields for fields, _ in each)), set().union(*(groups for _, groups in each))


def named(path: pathlib.Path) -> str:
    return path.stem


def test_the_page_of_all_fields_is_up_to_date() -> None:
    page = make_configuration.write_page()
    assert page == make_configuration.PAGE.read_text(), "run python -m docs.make_configuration"
    for expected in (
        "| `optimizer.clip_norm` | `1.0` | largest global norm of the gradient; 0 is off |",
        '| `stages.lowest_segment` | `""` |  | `"block_14"` | `"block_03"` |',
        "| `model.filters` |  | `(16, 32, 64, 128)` | `(16, 32, 64, 64)` |",
    ):
        assert expected in page.splitlines()


def test_there_are_configurations() -> None:
    assert "effnet" in [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_variants_load_with_the_same_fields(path: pathlib.Path) -> None:
    module = load(path)
    default = leaves(module.get_config())
    assert default
    for variant in module.VARIANTS:
        fields = leaves(module.get_config(variant))
        kinds = {name: type(value) for name, value in fields.items()}
        assert kinds == {name: type(value) for name, value in default.items()}, f"{path.name}:{variant}"
    assert "" in module.VARIANTS and len(set(module.VARIANTS)) == len(module.VARIANTS)


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_variants_differ(path: pathlib.Path) -> None:
    module = load(path)
    contents = [str(leaves(module.get_config(variant))) for variant in module.VARIANTS]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_a_wrong_variant_is_refused(path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=rf"{path.name}.*'nonsense'"):
        load(path).get_config("nonsense")


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_the_description_shows_the_command_of_each_variant(path: pathlib.Path) -> None:
    module = load(path)
    assert module.__doc__ is not None
    words = module.__doc__.split()
    for variant in module.VARIANTS:
        assert f"--config=configs/{path.name}{':' if variant else ''}{variant}" in words


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_every_field_is_explained(path: pathlib.Path) -> None:
    explained = make_configuration.read_comments(DEFAULTS.read_text() + path.read_text(encoding="utf-8"))
    silent = leaves(load(path).get_config()).keys() - explained.keys()
    assert not silent, f"write a comment at the end of the line that sets {sorted(silent)}"


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_every_field_is_read(path: pathlib.Path) -> None:
    assert unread(set(leaves(load(path).get_config())), *all_reads()) == []


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_every_field_that_is_read_exists(path: pathlib.Path) -> None:
    assert unknown(set(leaves(load(path).get_config())), *all_reads()) == []


# The checks themselves, on small sources.


def test_reads_are_found_in_every_form() -> None:
    source = """
def f(config, of_fold):
    one(config.seed, rate=config.stages.rate)
    two(**config.augment)
    three(**{**config.preprocess, "size": config.preprocess.size or 2})
    four(config.to_dict(), config.augment.to_dict())
    of_fold.data.fold = config.data.folds
    config.data.fold = 3
    five(mine.config.other, group=config.loss)
"""
    assert reads(source) == (
        {"seed", "stages.rate", "preprocess.size", "data.folds", "loss"},
        {"augment", "preprocess"},
    )


def test_unread_and_unknown_fields_are_named() -> None:
    fields = {"seed", "data.fold", "augment.flip", "augment.zoom"}
    assert unread(fields, {"seed"}, {"augment"}) == ["data.fold"]
    assert unread(fields, {"augment.flip", "data.fold"}, set()) == ["augment.zoom", "seed"]
    assert unknown(fields, {"seed", "data.folds", "augment"}, {"loss"}) == ["augment", "data.folds", "loss"]
    assert unknown(fields, fields, {"augment"}) == []


def test_comments_of_fields_are_read() -> None:
    source = """
config.seed = 0  # of all
config.name = ""
config.data = data = dict()
config.eval = evaluation = dict()  # how often
model = config.model
data.fold = 0  # which one
# above
other.field = 1  # of something else
data.folds = 5  #
evaluation.every = (
    1.0  # epochs,
)
# or fractions
model.name, model.size = "", 0  # of two fields
model.hidden = ()  # sizes
data.fold = 1  # later
"""
    assert make_configuration.read_comments(source) == {
        "seed": "of all",
        "eval": "how often",
        "data.fold": "which one above",
        "eval.every": "epochs, or fractions",
        "model.hidden": "sizes",
    }
