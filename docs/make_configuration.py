"""Writes docs/configuration.md from bt_jax/defaults.py and configs/: run `python -m docs.make_configuration`.

The texts are the comments in the sources: of each field where it is first set, and of each configuration its docstring.
"""

import ast
import importlib.util
import io
import pathlib
import tokenize
import types
from typing import Any

from bt_jax import defaults
from bt_jax.workdir.run_folder import flatten

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """# Configuration

This page is generated from [`bt_jax/defaults.py`](../bt_jax/defaults.py) and `configs/` by
`python -m docs.make_configuration`.

A configuration is a Python file in `configs/`, with variants after a colon: `--config=configs/effnet.py:cpu`. It names
a model and changes what differs from the defaults. Any field can be set on the command line: `--config.FIELD=VALUE`,
with brackets in quotes, as in `--config.model.hidden="(256,64)"`. All fields are checked before any data is read. The
`config.json` in the workdir of a run holds the values of all fields.
"""


def read_comments(source: str) -> dict[str, str]:
    """Returns the comments of the fields that a source sets, by field.

    A comment begins on the line of an assignment to one field (`config.a = ...`, or `group.a = ...` where `group` was
    assigned `config.group`), and may go on in lines of its own below.
    """
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {t.start[0]: t.string.removeprefix("#").strip() for t in tokens if t.type == tokenize.COMMENT}
    alone = {line for line in comments if source.splitlines()[line - 1].lstrip().startswith("#")}
    groups = {"config": ""}  # prefix of the fields, by the variable that holds the group
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        fields = [field for target in [*node.targets, node.value] if (field := _name_field(target, groups))]
        groups |= {
            target.id: f"{field}." for target in node.targets if isinstance(target, ast.Name) for field in fields
        }
        last = node.end_lineno or node.lineno
        lines = [comments[line] for line in range(node.lineno, last + 1) if comments.get(line)]
        if not lines or not _name_field(node.targets[0], groups):
            continue
        while last + 1 in alone:
            last += 1
            lines.append(comments[last])
        found.setdefault(fields[0], " ".join(lines))
    return found


def _name_field(node: ast.AST, groups: dict[str, str]) -> str | None:
    """Returns `a.b` for `config.a.b`, or for `group.b`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in groups:
        return f"{groups[node.value.id]}{node.attr}"
    return None


def load_configurations() -> dict[str, types.ModuleType]:
    """Returns the modules of the files in `configs/`, by name."""
    found = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        found[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[path.stem])
    return found


def write_page() -> str:
    """Returns the text of the page."""
    comments = read_comments((ROOT / "bt_jax" / "defaults.py").read_text(encoding="utf-8"))
    values = flatten(defaults.make_defaults().to_dict())
    standard = {field: values[field] for field in comments}  # in the order of the source
    parts = [HEAD]
    groups: dict[str, list[str]] = {}
    for field in standard:
        groups.setdefault(field.partition(".")[0] if "." in field else "", []).append(field)
    for group, fields in groups.items():
        rows = [[f"`{field}`", _format_value(standard[field]), comments[field]] for field in fields]
        parts.append(f"## `config.{group}`\n" if group else "## `config`\n")
        parts.append(_format_table(["field", "default", "meaning"], rows))
    for name, module in load_configurations().items():
        parts.append(_describe_configuration(name, module, standard))
    return "\n".join(parts)


def _describe_configuration(name: str, module: types.ModuleType, standard: dict[str, Any]) -> str:
    """Returns the section of a file in `configs/`: what it is, the options of its model, and what each variant sets."""
    values = {variant: flatten(module.get_config(variant).to_dict()) for variant in module.VARIANTS}
    comments = read_comments((ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8"))
    own = [field for field in comments if field not in standard]
    title = (module.__doc__ or "").partition("\n")[0]
    parts = [f"## `configs/{name}.py`\n", f"{title}\n"]
    if "model.name" in comments:
        parts.append(f"`model.name` is {values['']['model.name']}, {comments['model.name']}.\n")
    parts.append(_format_table(["option of the model", "meaning"], [[f"`{field}`", comments[field]] for field in own]))
    parts.append("What differs from the defaults; an empty cell is the default:\n")
    rows = []
    for field in [*own, *standard]:
        cells = ["" if of[field] == standard.get(field) else _format_value(of[field]) for of in values.values()]
        if any(cells):
            rows.append([f"`{field}`", _format_value(standard[field]) if field in standard else "", *cells])
    variants = [f"`{name}.py{':' * bool(variant)}{variant}`" for variant in values]
    parts.append(_format_table(["field", "default", *variants], rows))
    return "\n".join(parts)


def _format_value(value: Any) -> str:
    return f"`{tuple(value) if isinstance(value, list) else value!r}`".replace("'", '"')


def _format_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
