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

# Each room, and the rooms that it may import from: only ones that stand above it, so imports point one way.
ROOMS = {
    "common": (),
    "defaults": (),
    "ops": (),
    "metrics": ("common",),
    "data": ("common",),
    "distributed": ("common",),
    "models": ("common", "ops"),
    "models.pretrained": ("common", "models"),
    "workdir": ("common", "distributed"),
    "inference": ("common", "ops", "metrics", "data", "models", "models.pretrained", "workdir"),
    "reports": ("common", "metrics", "data", "models", "workdir"),
    "training": (
        "common", "defaults", "ops", "metrics", "data", "distributed", "models", "models.pretrained", "workdir",
        "inference", "reports",
    ),
    "experiments": ("common", "metrics", "data", "models", "workdir", "inference", "reports"),
    "audit": ("common", "data"),
    "benchmark": ("common", "defaults", "data", "distributed", "models", "workdir", "inference", "training"),
    "serve": ("common", "data", "inference"),
    "launch": ("common",),
    "commands": (
        "common", "defaults", "metrics", "data", "distributed", "models", "workdir", "inference", "reports", "training",
        "experiments",
    ),
}  # fmt: skip

# The modules that know a library; no other imports it.
OWNERS = {
    "clu": {"models.summary"},
    "flask": {"serve.app", "serve.forms", "serve.middleware"},
    "grain": {"data.pipeline"},
    "h5py": {"models.pretrained.keras_file"},
    "keras": {"benchmark.peers.keras_tensorflow"},
    "markdown_it": {"serve.model_page"},
    "matplotlib": {
        "reports.figure_style", "reports.model_diagram", "reports.plots",
        "reports.training_curves",
    },
    "ml_collections": {
        "benchmark.__main__", "defaults", "experiments.final_model", "experiments.runner", "main", "release", "sweep",
        "training.config_check", "training.setup", "training.train",
    },
    "nibabel": {"data.io.nifti"},
    "onnx": {"inference.onnx_layers"},
    "onnxruntime": {"benchmark.peers.onnx_runtime", "inference.onnx_engine"},
    "openvino": {"benchmark.peers.openvino_runtime", "inference.onnx_engine"},
    "optax": {"training.optimizer", "training.train_step"},
    "orbax": {"workdir.checkpoint"},
    "prometheus_client": {"serve.counters"},
    "pydicom": {"data.io.dicom"},
    "sklearn": {"audit.shortcuts", "data.splits"},
    "tensorboardX": {"workdir.metric_log"},
    "tensorflow_datasets": {"data.array_record"},
    "timm": {"benchmark.peers.pytorch_timm"},
    "torch": {"benchmark.peers.pytorch_timm"},
    "waitress": {"serve.server"},
    "werkzeug": {"serve.forms", "serve.middleware"},
}  # fmt: skip

# Modules that must start fast and anywhere, and what none of their imports may lead to.
LIGHT = (
    "inference.model", "inference.jax_model", "inference.onnx_model", "inference.stream", "predict", "serve.__main__",
    "serve.app",
)  # fmt: skip
HEAVY = {"optax", "grain", "sklearn", "matplotlib", "tensorflow", "tensorboardX", "ml_collections"}
TRAINING = {
    "bt_jax.data.pipeline", "bt_jax.training.loop", "bt_jax.training.stages", "bt_jax.training.train",
    "bt_jax.training.train_step",
}  # fmt: skip

MOST_LINES = 400

# Modules with logic that have no test file of their own, and where they are tested.
TESTED_ELSEWHERE = {
    "benchmark.onnx_engines": "tests/benchmark/main_test.py",
    "benchmark.peers.keras_tensorflow": "tests/benchmark/peer_process_test.py",  # runs where its framework is
    "benchmark.peers.onnx_runtime": "tests/benchmark/peer_process_test.py",
    "benchmark.peers.openvino_runtime": "tests/benchmark/peer_process_test.py",
    "benchmark.peers.pytorch_timm": "tests/benchmark/peer_process_test.py",
    "benchmark.peers.turns": "tests/benchmark/peer_process_test.py",
    "benchmark.tables": "tests/benchmark/main_test.py",
    "data.io.dicom_display": "tests/data/io/dicom_test.py",
    "data.phantom_source": "tests/data/sources_test.py",
    "data.phantoms.anatomy": "tests/data/phantoms/phantom_test.py",
    "data.phantoms.lesions": "tests/data/phantoms/phantom_test.py",
    "data.phantoms.shapes": "tests/data/phantoms/phantom_test.py",
    "defaults": "tests/config_test.py",
    "inference.onnx_layers": "tests/inference/onnx_graph_test.py",
    "inference.trained_model": "tests/inference/jax_model_test.py",
    "reports.score_sections": "tests/reports/score_text_test.py",
}
LOGIC = 8  # statements in functions, from which on a module has logic

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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def room_of(module: str) -> str:
    """The room of a module: the longest entry of `ROOMS` that it lies in, `commands` for those at the top level."""
    name = module.removeprefix(f"{PACKAGE}.")
    fitting = [room for room in ROOMS if f"{name}.".startswith(f"{room}.")]
    return max(fitting, key=len, default=name if "." in name else "commands")


def wrong_way(imports: Imports) -> list[str]:
    """Imports from rooms that a module's own may not know, one line each."""
    return [
        f"{module} imports {other}, and {room_of(module)} may not import from {room_of(other)}"
        for module, imported in sorted(imports.items())
        for other in sorted(imported & imports.keys())
        if room_of(module) != room_of(other) and room_of(other) not in ROOMS.get(room_of(module), ())
    ]


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


def test_text_files_are_utf8_wherever_they_are_read():
    """Else the locale decides. PLW1514 of ruff sees the calls whose object it knows."""
    found = []
    for folder in (PACKAGE, "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
                    continue
                called = ast.unparse(node.func)
                text = any(each.arg == "text" and ast.unparse(each.value) == "True" for each in node.keywords)
                if text or (called.endswith((".read_text", ".write_text")) and called != "files.write_text"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert found == []


def test_every_module_has_its_room(imports: Imports) -> None:
    homeless = [module for module in imports if room_of(module) not in ROOMS]
    assert not homeless, f"add the room of {homeless} to ROOMS in {pathlib.Path(__file__).name}"


def test_rooms_stand_below_what_they_import() -> None:
    order = list(ROOMS)
    assert [(room, other) for room in ROOMS for other in ROOMS[room] if order.index(other) >= order.index(room)] == []


def test_every_entry_of_the_tables_is_needed(imports: Imports) -> None:
    used = {(room_of(module), room_of(other)) for module in imports for other in imports[module] & imports.keys()}
    gone = {f"{room} -> {other}" for room in ROOMS for other in ROOMS[room] if (room, other) not in used}
    names = {module.removeprefix(f"{PACKAGE}.") for module in imports}
    gone |= set().union(*OWNERS.values()) - names
    gone |= {name for name in TRAINING if name not in imports}
    assert not gone, f"remove {sorted(gone)} from the tables in {pathlib.Path(__file__).name}"


def test_imports_point_one_way(imports: Imports) -> None:
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


def test_init_files_are_empty_but_for_the_interface() -> None:
    filled = [str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("__init__.py") if path.stat().st_size]
    assert filled == [f"{PACKAGE}/__init__.py"]


def test_the_interface_imports_when_it_is_called() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys, {PACKAGE}; print([name for name in sys.modules if '{PACKAGE}.' in name])"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert shown.stdout == "[]\n"


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_files_are_short() -> None:
    paths = [path for folder in (PACKAGE, "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def count_statements(source: str) -> int:
    """The statements in functions, without docstrings and imports."""
    found: set[ast.stmt] = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= {node for node in ast.walk(function) if isinstance(node, ast.stmt)} - {function}
    return sum(
        not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in found
    )


def find_untested(root: pathlib.Path) -> list[str]:
    """Modules with logic and without a test file of the same name in the same place."""
    return [
        ".".join(name.parts)
        for path in sorted((root / PACKAGE).rglob("*.py"))
        if count_statements(path.read_text()) >= LOGIC
        for name in [path.relative_to(root / PACKAGE).with_suffix("")]
        if not (root / "tests" / name.parent / f"{name.name.strip('_')}_test.py").exists()
    ]


def test_every_module_with_logic_has_its_tests() -> None:
    assert set(find_untested(ROOT)) <= TESTED_ELSEWHERE.keys()
    assert [tests for tests in TESTED_ELSEWHERE.values() if not (ROOT / tests).exists()] == []


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
        "from bt_jax.training import train",
        "import bt_jax.training.train",
        "from bt_jax.training.train import train_and_evaluate",
        "def later():\n    from bt_jax.training import train",
    ],
)
def test_an_import_upwards_is_found_in_every_form(tmp_path: pathlib.Path, source: str) -> None:
    found = tree(tmp_path, training__train="", common__files="", inference__stream=source)
    assert wrong_way(found) == [
        "bt_jax.inference.stream imports bt_jax.training.train, and inference may not import from training"
    ]
    assert "bt_jax.training.train" in reached(found, "bt_jax.inference.stream")


def test_data_and_models_know_nothing_of_each_other(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path,
        data__io__decode="from bt_jax.models.registry import Network",
        data__sources="from bt_jax.data.io import decode",
        models__registry="from bt_jax.data.io.decode import decode_image",
    )
    assert wrong_way(found) == [
        "bt_jax.data.io.decode imports bt_jax.models.registry, and data may not import from models",
        "bt_jax.models.registry imports bt_jax.data.io.decode, and models may not import from data",
    ]


def test_networks_do_not_know_where_weights_come_from(tmp_path: pathlib.Path) -> None:
    upwards = "from bt_jax.models.pretrained import names"
    found = tree(tmp_path, models__registry=upwards, models__pretrained__names="from bt_jax.models import layers")
    (line,) = wrong_way(found)
    assert line.endswith(
        "registry imports bt_jax.models.pretrained.names, and models may not import from models.pretrained"
    )


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
        tmp_path, metrics__curves="from sklearn.metrics import f1_score", data__splits="import sklearn.model_selection"
    )
    assert strangers(found) == [
        "bt_jax.metrics.curves imports sklearn, which only audit.shortcuts, data.splits may know"
    ]


def test_a_way_round_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(
        tmp_path,
        inference__predictor="from bt_jax.workdir import checkpoint",
        workdir__checkpoint="from bt_jax.data import sampler",
        data__sampler="from bt_jax.data import pipeline",
        data__pipeline="import grain.python",
    )
    assert reached(found, "bt_jax.inference.predictor") >= {"grain", "bt_jax.data.pipeline"}


def test_a_room_without_a_line_is_found(tmp_path: pathlib.Path) -> None:
    found = tree(tmp_path, attic__box="", data__new="")
    assert [module for module in found if room_of(module) not in ROOMS] == ["bt_jax.attic.box"]


@pytest.mark.parametrize("source", ["from . import files", "from .files import write_json"])
def test_relative_imports_are_refused(tmp_path: pathlib.Path, source: str) -> None:
    with pytest.raises(AssertionError, match=r"inference\.py:1: .* in full"):
        tree(tmp_path, inference=source)


def test_imports_by_string_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError, match=r"registry\.py:2: imports by a string"):
        tree(tmp_path, models__registry="import importlib\nimportlib.import_module('bt_jax.train')")


def test_a_module_without_tests_is_found(tmp_path: pathlib.Path) -> None:
    logic = 'def f(x):\n    """Text."""\n' + "    x += 1\n" * LOGIC
    tree(
        tmp_path, data__a=logic, data__b=logic, data__constants="X = 1\n" * 99, data__short="def f(): return 1", c=logic
    )
    (tmp_path / "tests" / "data").mkdir(parents=True)
    (tmp_path / "tests" / "data" / "b_test.py").touch()
    (tmp_path / "tests" / "a_test.py").touch()  # elsewhere
    assert find_untested(tmp_path) == ["c", "data.a"]
    assert count_statements(logic) == LOGIC
