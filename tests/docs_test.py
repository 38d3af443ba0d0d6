"""README, CONTRIBUTING and docs/: links lead somewhere, names exist, commands run, and promises have their tests."""

import ast
import collections
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile

import pytest

from tests import phantom_folder, runs, sharing

ROOT = runs.ROOT
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").rglob("*.md"))]
NAMING = [*DOCS, ROOT / "CONTRIBUTING.md"]  # the changelog may name what is gone
LANGUAGES = {"sh", "text", "python", "json"}  # of fenced blocks; those of `sh` are commands

# Commands that no test here runs, by their beginning, and the reason.
LEFT_OUT = {
    "./launch.sh demo": "installs and trains for minutes: tests/launch_test.py and tests/main_test.py",
    "./launch.sh serve": "installs and serves until it is stopped: tests/launch_test.py",
    "./launch.sh test": "is what runs this test: tests/launch_test.py",
    "./launch.sh multihost": "tests/launch/multihost_test.py trains with two processes",
    "curl ": "needs a server that runs: tests/serve/server_test.py sends the same request",
    "python -m bt_jax.main --config=configs/effnet.py --coordinator": "needs four hosts",
    "python -m bt_jax.benchmark --config=configs/effnet.py --mode=infer --batch=16 --peers": "needs other frameworks",
    "python -m bt_jax.benchmark --config=configs/effnet.py --mode=train --topology": "needs the compiler for TPUs",
    "python -m bt_jax.sweep --config=configs/mlp.py --grid": "part of a study of an hour: see docs/experiments.md",
    "python -m bt_jax.sweep --config=configs/cnn.py --grid": "part of a study of an hour: see docs/experiments.md",
    "python benchmarks/chaos.py": "takes half an hour: tests/chaos_test.py runs a short form",
    "python benchmarks/layouts.py": "takes many minutes: tests/training/layouts_test.py runs a short form",
}

# What makes a command short, by its beginning; the first one that fits counts.
TINY = ["--config.train.batch_size=8", "--config.preprocess.size=8", "--config.data.folds=2"]
NETWORK = [f"--config.{name}={value}" for name, value in runs.FIELDS.items() if name != "data.phantoms_per_class"]
NETWORK += ["--config.stages.count=1", "--config.data.folds=2"]
SHORT = {
    "python -m bt_jax.main --config=configs/effnet.py --summary": [],
    "python -m bt_jax.main --config=configs/effnet.py:demo": [*NETWORK, "--config.data.phantoms_per_class=(25,4)"],
    "python -m bt_jax.main --config=configs/effnet.py:cpu --config.data.dir=archive.zip --config.data.probe": [
        *NETWORK, "--config.data.probe=meningioma:patient=*-000[1-3]",  # phantoms have patients: none is of the web
    ],
    "python -m bt_jax.main": NETWORK,
    "python -m bt_jax.release": NETWORK,
    "python -m bt_jax.sweep": [*TINY, "--config.stages.epochs=1"],
    "python -m bt_jax.benchmark --config": [
        "--config.model.name=efficientnet_nano", "--config.preprocess.size=32", "--repeats=1",
    ],
    "python benchmarks/audit_twins.py": ["--images=4"],
    "python benchmarks/cpu_layers.py": ["--batch=1", "--repeats=1"],
    "python benchmarks/doubt.py": ["--each=2"],
    "python benchmarks/million_records.py": ["--records=2000", "--size=32", "--steps=3"],
    "python benchmarks/pointing.py": ["--each=2"],
    "python benchmarks/serve_load.py": ["--images=8", "--seconds=1", "--clients", "2"],
}  # fmt: skip
# Blocks whose commands all begin like this take a few seconds.
QUICK = (
    "python -m bt_jax.audit", "python -m bt_jax.prepare", "python -m bt_jax.benchmark --table",
    "./launch.sh tpu", "./launch.sh gke", "./launch.sh slurm",
)  # fmt: skip
# Flags that name what a command writes.
WRITES = ("--workdir", "--out", "--json", "--gradcam", "--summary")
PHANTOMS_PER_CLASS = (25, 4)


@dataclasses.dataclass(frozen=True)
class Block:
    """The commands of a fenced block, without comments."""

    name: str
    commands: tuple[str, ...]


def read_fences(page: pathlib.Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)


def read_blocks(page: pathlib.Path) -> list[Block]:
    """The blocks of commands."""
    contents = [content for language, content in read_fences(page) if language == "sh"]
    return [
        Block(f"{page.stem}-{number}", tuple(filter(None, (line.partition(" #")[0].strip() for line in lines))))
        for number, lines in enumerate(
            ([line for line in content.splitlines() if line[0] != "#"] for content in contents), 1
        )
    ]


def is_left_out(command: str) -> bool:
    return command.startswith(tuple(LEFT_OUT)) and "--dry-run" not in command


def select_blocks() -> list[Block]:
    """What runs: the blocks without the commands that are left out, and without those whose commands ran before."""
    found: list[Block] = []
    seen: set[str] = set()
    for page in DOCS:
        for block in read_blocks(page):
            commands = tuple(command for command in block.commands if not is_left_out(command))
            if not seen.issuperset(commands):
                found.append(Block(block.name, commands))
                seen |= set(commands)
    return found


def mark_tier(block: Block) -> object:
    quick = all(command.startswith(QUICK) for command in block.commands)
    return pytest.param(block, id=block.name, marks=() if quick else pytest.mark.slow)


ALL_COMMANDS = [command for page in DOCS for block in read_blocks(page) for command in block.commands]


def name_page(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def make_anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in make_anchors(file), target


def test_the_index_has_every_page():
    readme = (ROOT / "README.md").read_text()
    index = re.findall(r"^\| \[(\w+)\]\(docs/(\w+)\.md\)", readme, re.M)
    assert sorted(index) == sorted((page.stem, page.stem) for page in DOCS if page != ROOT / "README.md")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_it_can_be_read_in_minutes(name):
    assert (ROOT / name).stat().st_size <= 8192


@pytest.mark.parametrize("page", NAMING, ids=name_page)
def test_fenced_blocks_have_a_language(page):
    assert {language for language, _ in read_fences(page)} <= LANGUAGES


@pytest.mark.parametrize("page", NAMING, ids=name_page)
def test_configurations_that_are_named_exist(page):
    for path, variant in re.findall(r"\b(configs/\w+\.py)(?::(\w+))?", page.read_text()):
        if path == "configs/linear.py":  # what CONTRIBUTING adds
            continue
        variants = re.search(r"^VARIANTS = (.*)$", (ROOT / path).read_text(), re.M)
        assert variants and variant in ast.literal_eval(variants[1]), f"{path}:{variant}"


def is_defined(dotted: str) -> bool:
    """Whether `bt_jax.room.module` or `bt_jax.room.module.name` exists in the sources."""
    parts = dotted.split(".")
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    if not module.exists():
        module = ROOT.joinpath(*parts[:-1], "__init__.py")
    return module.exists() and bool(re.search(rf"^(def |class |)({parts[-1]})\b", module.read_text(), re.M))


@pytest.mark.parametrize("page", NAMING, ids=name_page)
def test_files_and_modules_that_are_named_exist(page):
    added = {"bt_jax/models/linear.py"}  # by the section of CONTRIBUTING on models
    text = page.read_text()
    for path in set(re.findall(r"(?<![\w/])((?:bt_jax|tests|benchmarks)/[\w/.-]*[\w/])", text)) - added:
        made = path.startswith("benchmarks/") and f"--json={path}" in text
        placeholder = re.search(r"/[A-Z]+(/|\.py)", path)
        assert made or placeholder or (ROOT / path).exists(), path
    for dotted in re.findall(r"\b(bt_jax(?:\.[a-z_]+)+)\b(?!/)", text):
        assert is_defined(dotted), dotted


@pytest.mark.parametrize(
    ("dotted", "there"),
    [
        ("bt_jax.main", True),
        ("bt_jax.serve", True),
        ("bt_jax.common.files.write_json", True),
        ("bt_jax.common.nothing", False),
        ("bt_jax.common.files.nothing", False),
    ],
)
def test_what_is_defined(dotted, there):
    assert is_defined(dotted) == there


@pytest.mark.parametrize("page", NAMING, ids=name_page)
def test_commands_with_flags_stand_in_blocks(page):
    """Where they run."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for code in re.findall(r"`([^`\n]+)`", prose):
        assert not re.match(r"python .* --|\./launch\.sh \w+ .*--", code), code


def test_every_command_runs_or_has_a_reason_not_to():
    for beginning in LEFT_OUT:
        assert any(command.startswith(beginning) for command in ALL_COMMANDS), f"nothing begins with {beginning!r}"
    for beginning in SHORT:
        assert any(command.startswith(beginning) for command in ALL_COMMANDS), f"nothing begins with {beginning!r}"
    left = collections.Counter(ALL_COMMANDS) - collections.Counter(filter(is_left_out, ALL_COMMANDS))
    running = {command for block in select_blocks() for command in block.commands}
    assert running == set(left)
    assert all(command.startswith(("python ", "./launch.sh ")) for command in running)


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> pathlib.Path:
    """A small zip of phantoms."""

    def make(folder: pathlib.Path) -> None:
        training, testing = PHANTOMS_PER_CLASS
        images = folder / "images"
        phantom_folder.write(images, training_per_class=training, testing_per_class=testing, seed=0)
        with zipfile.ZipFile(folder / "archive.zip", "w") as zip_file:
            for file in sorted(images.rglob("*")):
                if file.is_file():
                    zip_file.write(file, file.relative_to(images))

    return sharing.make_once(tmp_path_factory, "archive", make) / "archive.zip"


@pytest.fixture
def workspace(request, archive, tmp_path) -> pathlib.Path:
    """A folder with configurations, images, their zip and, unless the block trains it, the run `runs/first`."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "archive.zip").symlink_to(archive)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "brain_tumor_mri").symlink_to(archive.parent / "images")
    (tmp_path / "runs").mkdir()
    text = " ".join(request.getfixturevalue("block").commands)
    if "runs/first" in text and "--workdir=runs/first" not in text:
        shutil.copytree(request.getfixturevalue("finished_efficientnet"), tmp_path / "runs" / "first")
    return tmp_path


def run_command(command: str, folder: pathlib.Path) -> None:
    """Runs a command in its short form, and checks that what it is said to write is there."""
    words = shlex.split(command)
    target = None
    if ">" in words:
        target = folder / words.pop()
        words.remove(">")
    short = next((flags for beginning, flags in SHORT.items() if command.startswith(beginning)), [])
    # A pair that is given twice would have four numbers.
    names = {flag.partition("=")[0] for flag in short}
    words = [word for word in words if "=" not in word or word.partition("=")[0] not in names]
    if words[0] == "python":
        words[0], place = sys.executable, folder
    else:
        words[0], place = str(ROOT / "launch.sh"), ROOT
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if "bt_jax.serve" in words:
        serve_for_a_moment([*words, *short, "--port=0"], folder, environment)
        return
    done = subprocess.run(
        [*words, *short], cwd=place, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if target:
        target.write_text(done.stdout)
        assert done.stdout
    for word in words:
        flag, _, path = word.partition("=")
        if flag in WRITES and "--dry-run" not in words and not path.startswith("gs://"):
            assert (folder / path).exists(), f"{command}\nwrote no {path}"
        if flag == "--gradcam":
            assert len(list((folder / path).glob("*.png"))) == 4 * sum(PHANTOMS_PER_CLASS)


def serve_for_a_moment(words: list[str], folder: pathlib.Path, environment: dict[str, str]) -> None:
    """Starts the server, asks for its health and stops it."""
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found
            with urllib.request.urlopen(f"{found[0]}healthz", timeout=60) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("block", [mark_tier(block) for block in select_blocks()])
def test_commands_run(block, workspace):
    for command in block.commands:
        run_command(command, workspace)


PROMISES = re.findall(
    r"^\| (.+) \| `(tests/[\w/]+\.py)::(\w+)` \| `(\w+)` \|$", (ROOT / "docs/reliability.md").read_text(), re.M
)


def test_every_row_of_the_promises_is_read():
    rows = re.findall(r"^\| .*`tests/.*$", (ROOT / "docs/reliability.md").read_text(), re.M)
    assert len(rows) == len(PROMISES) > 60


def find_tier(path: str, name: str) -> str:
    """`default` or `all`, by the marks of the test and its module."""
    body = ast.parse((ROOT / path).read_text()).body
    (function,) = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    marks = [ast.unparse(mark) for mark in function.decorator_list]
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks += [
                ast.unparse(mark) for mark in (node.value.elts if isinstance(node.value, ast.List) else [node.value])
            ]
    return "all" if "pytest.mark.slow" in marks else "default"


@pytest.mark.parametrize(("promise", "path", "name", "tier"), PROMISES, ids=[row[2] for row in PROMISES])
def test_a_promise_has_its_test_in_its_tier(promise, path, name, tier):
    assert find_tier(path, name) == tier, promise
