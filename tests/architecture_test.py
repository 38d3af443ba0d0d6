"""The shape of the package, read from its sources: where imports point, who knows which library, how long files are."""

import ast
import graphlib
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "bt_jax"

# Lowest first, without `bt_jax.`. A module imports only from lines below its own. The entries of one line know nothing
# of each other; a package stands for all in it that has no line of its own, and its modules may know each other.
LAYERS = (
    (
        "confusion",
        "defaults",
        "errors",
        "files",
        "heat_map",
        "hlo",
        "integrity",
        "labels",
        "peers",
        "ranking",
        "roofline",
        "sentences",
        "significance",
        "watchdog",
    ),
    ("mirror", "sharding"),
    ("hosts",),
    (
        "benchmark_tables",
        "calibration",
        "commandline",
        "data",
        "doubt",
        "grid",
        "machine",
        "models",
        "patients",
        "yardsticks",
    ),
    ("models.pretrained",),
    ("figures", "findings", "limits", "metrics", "summary"),
    ("audit_files", "diagram", "plots", "run_curves", "score_text", "training_curves"),
    ("audit_page", "model_card", "report"),
    ("checkpoint", "model_file"),
    ("inference",),
    ("gradcam", "inputs", "onnx_graph", "predictor"),
    ("conversion", "explanations", "prediction_stream"),
    ("accumulation", "evaluation", "stages"),
    ("steps",),
    ("input_throughput", "throughput"),
    ("feature_store", "interrupts", "profiling", "programs", "progress", "topology", "workdir", "writers"),
    ("features",),
    ("feed", "finished_runs", "validation"),
    ("comparison_tables", "cross_validation", "loop", "run_report", "run_weights"),
    ("starting",),
    ("comparison", "measurements", "train"),
    ("study",),
    ("serve.settings", "serve.counters", "serve.batching", "serve.language"),
    ("serve.engine", "serve.model_page", "serve.server"),
    ("serve.api",),
    ("serve.answers",),
    ("serve.app",),
    ("launch",),
    ("audit", "benchmark", "compare", "evaluate", "export", "main", "predict", "prepare", "serve.__main__", "sweep"),
)

# The modules that know a library; no other imports it.
OWNERS = {
    "flask": {"serve.answers", "serve.app"},
    "grain": {"data.pipeline"},
    "h5py": {"models.pretrained.keras_file"},
    "matplotlib": {"diagram", "figures", "plots", "run_curves", "training_curves"},
    "keras": {"peers.keras_tensorflow"},
    "markdown_it": {"serve.model_page"},
    "nibabel": {"data.nifti"},
    "ml_collections": {"benchmark", "defaults", "main", "starting", "study", "sweep", "train"},
    "onnx": {"onnx_graph"},
    "onnxruntime": {"onnx_graph", "peers.onnx_runtime"},
    "optax": {"steps"},
    "orbax": {"checkpoint"},
    "pydicom": {"data.dicom"},
    "sklearn": {"data.shortcuts", "data.splits"},
    "tensorboardX": {"writers"},
    "tensorflow_datasets": {"data.prepared"},
    "timm": {"peers.onnx_runtime", "peers.pytorch_timm"},
    "torch": {"peers.onnx_runtime", "peers.pytorch_timm"},
    "waitress": {"serve.server"},
    "werkzeug": {"serve.answers"},
}

# Modules that must start fast and anywhere, and what none of their imports may lead to.
LIGHT = ("inference", "predict", "prediction_stream", "serve.__main__", "serve.app")
HEAVY = {"optax", "grain", "sklearn", "matplotlib", "tensorflow", "tensorboardX", "ml_collections"}
TRAINING = {"bt_jax.train", "bt_jax.loop", "bt_jax.steps", "bt_jax.stages", "bt_jax.data.pipeline"}

MOST_LINES = 400

# Imports by module: full dotted names of modules of the package, and of other libraries the first part alone.
Imports = Mapping[str, set[str]]


def read_imports(root: pathlib.Path) -> dict[str, set[str]]:
    """All imports in the package under `root`, those inside functions too; `__init__` files are left out."""
    sources = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in sorted((root / PACKAGE).rglob("*.py"))
        if path.name != "__init__.py"
    }
    return {name: _imports_of(path, sources.keys()) for name, path in sources.items()}


def _imports_of(path: pathlib.Path, modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: write imports of the package in full, from {PACKAGE}"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            raise AssertionError(f"{path}:{node.lineno}: imports by a string, which nobody can follow")
    return {name if name.split(".")[0] == PACKAGE else name.split(".")[0] for name in found}


def place(module: str, layers: tuple[tuple[str, ...], ...] = LAYERS) -> tuple[int, str] | None:
    """Number of a module's layer and the entry that stands for it, the longest one that fits."""
    name = module.removeprefix(f"{PACKAGE}.")
    fitting = [
        (len(entry), number, entry)
        for number, layer in enumerate(layers)
        for entry in layer
        if f"{name}.".startswith(f"{entry}.")
    ]
    return max(fitting)[1:] if fitting else None


def wrong_way(imports: Imports, layers: tuple[tuple[str, ...], ...] = LAYERS) -> list[str]:
    """Imports that do not point down, one line each."""
    wrong = []
    for module, imported in sorted(imports.items()):
        for other in sorted(imported & imports.keys()):
            own, others = place(module, layers), place(other, layers)
            if own and others and own != others and own[0] <= others[0]:
                wrong.append(f"{module} imports {other}, which is not below it")
    return wrong


def cycles(imports: Imports) -> list[str]:
    """The first circle of imports, if there is one."""
    try:
        graphlib.TopologicalSorter(
            {module: imported & imports.keys() for module, imported in imports.items()}
        ).prepare()
    except graphlib.CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def strangers(imports: Imports) -> list[str]:
    """Modules that import a library which belongs to others, one line each."""
    return [
        f"{module} imports {library}, which only {', '.join(sorted(owners))} may know"
        for library, owners in OWNERS.items()
        for module in sorted(imports)
        if library in imports[module] and module.removeprefix(f"{PACKAGE}.") not in owners
    ]


def reached(imports: Imports, start: str) -> set[str]:
    """All that a module imports, itself or through others."""
    seen, left = set[str](), [start]
    while left:
        for name in imports.get(left.pop(), set()) - seen:
            seen.add(name)
            left.append(name)
    return seen


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return read_imports(ROOT)


def test_every_module_has_its_layer(imports: Imports) -> None:
    homeless = [module for module in imports if place(module) is None]
    assert not homeless, f"add {homeless} to LAYERS in {pathlib.Path(__file__).name}, above all that they import"


def test_every_entry_of_the_tables_exists(imports: Imports) -> None:
    names = {module.removeprefix(f"{PACKAGE}.") for module in imports}
    entries = {entry for layer in LAYERS for entry in layer}
    gone = {entry for entry in entries if not any(f"{name}.".startswith(f"{entry}.") for name in names)}
    gone |= set().union(*OWNERS.values()) - names
    gone |= {name for name in TRAINING if name not in imports}
    assert not gone, f"remove {sorted(gone)} from the tables in {pathlib.Path(__file__).name}"


def test_imports_point_down(imports: Imports) -> None:
    assert wrong_way(imports) == []


def test_imports_run_in_no_circle(imports: Imports) -> None:
    assert cycles(imports) == []


def test_each_library_has_its_owner(imports: Imports) -> None:
    assert strangers(imports) == []


def test_owners_know_their_library(imports: Imports) -> None:
    for library, owners in OWNERS.items():
        assert any(library in imports[f"{PACKAGE}.{owner}"] for owner in owners), f"nobody imports {library} any more"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_lead_to_nothing_heavy(imports: Imports, module: str) -> None:
    assert reached(imports, f"{PACKAGE}.{module}") & (HEAVY | TRAINING) == set()


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    # flax.nnx imports Optax itself; what is loaded before the module is none of its doing.
    program = (
        "import sys; from flax import nnx; before = set(sys.modules); "
        f"import {PACKAGE}.{module}; print(*(name for name in sys.modules if name not in before))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert f"{PACKAGE}.{module}" in loaded
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    assert set(loaded) & TRAINING == set()


def test_flax_brings_nothing_heavy_but_optax() -> None:
    program = "import sys; from flax import nnx; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY <= {"optax"}


def test_configurations_know_nothing_of_the_package_but_the_defaults(imports: Imports) -> None:
    for path in sorted((ROOT / "configs").glob("*.py")):
        found = {name for name in _imports_of(path, tuple(imports)) if name.split(".")[0] == PACKAGE}
        assert found <= {f"{PACKAGE}.defaults"}, f"{path.name} imports {found}"


def test_init_files_are_empty() -> None:
    filled = [str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("__init__.py") if path.stat().st_size]
    assert filled == []


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_files_are_short() -> None:
    paths = [path for folder in (PACKAGE, "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


# The checks themselves, on small trees that break the rules.


def tree(root: pathlib.Path, **sources: str) -> dict[str, set[str]]:
    for name, source in sources.items():
        path = root / PACKAGE / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return read_imports(root)


@pytest.mark.parametrize(
    "source",
    [
        "from bt_jax import train",
        "import bt_jax.train",
        "from bt_jax.train import train_and_evaluate",
        "def later():\n    from bt_jax import files, train",
    ],
)
def test_an_import_upwards_is_found_in_every_form(tmp_path: pathlib.Path, source: str) -> None:
    found = tree(tmp_path, train="", files="", inference=source)
    assert wrong_way(found) == ["bt_jax.inference imports bt_jax.train, which is not below it"]
    assert "bt_jax.train" in reached(found, "bt_jax.inference")


def test_data_and_models_know_nothing_of_each_other(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path,
        data__decode="from bt_jax.models.registry import Network",
        data__sources="from bt_jax.data import decode",
        models__registry="from bt_jax.data.decode import decode_image",
    )
    assert wrong_way(found) == [
        "bt_jax.data.decode imports bt_jax.models.registry, which is not below it",
        "bt_jax.models.registry imports bt_jax.data.decode, which is not below it",
    ]


def test_networks_do_not_know_where_weights_come_from(tmp_path: pathlib.Path) -> None:
    upwards = "from bt_jax.models.pretrained import names"
    found = tree(tmp_path, models__registry=upwards, models__pretrained__names="from bt_jax.models import layers")
    assert wrong_way(found) == ["bt_jax.models.registry imports bt_jax.models.pretrained.names, which is not below it"]


def test_a_circle_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path,
        data__a="from bt_jax.data import b",
        data__b="import bt_jax.data.c",
        data__c="from bt_jax.data.a import anything",
    )
    assert wrong_way(found) == []
    (circle,) = cycles(found)
    assert {"bt_jax.data.a", "bt_jax.data.b", "bt_jax.data.c"} == set(circle.split(" <- "))


def test_a_stranger_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path, metrics="from sklearn.metrics import f1_score", data__splits="import sklearn.model_selection"
    )
    assert strangers(found) == ["bt_jax.metrics imports sklearn, which only data.shortcuts, data.splits may know"]


def test_a_way_round_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path,
        inference="from bt_jax import checkpoint",
        checkpoint="from bt_jax.data import order",
        data__order="from bt_jax.data import pipeline",
        data__pipeline="import grain.python",
    )
    assert reached(found, "bt_jax.inference") >= {"grain", "bt_jax.data.pipeline"}


def test_a_new_module_without_a_layer_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(tmp_path, utils="", data__new="")
    assert [module for module in found if place(module) is None] == ["bt_jax.utils"]


@pytest.mark.parametrize("source", ["from . import files", "from .files import write_json"])
def test_relative_imports_are_refused(tmp_path: pathlib.Path, source: str) -> None:
    with pytest.raises(AssertionError, match=r"inference\.py:1: .* in full"):
        tree(tmp_path, inference=source)


def test_imports_by_string_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError, match=r"registry\.py:2: imports by a string"):
        tree(tmp_path, models__registry="import importlib\nimportlib.import_module('bt_jax.train')")
