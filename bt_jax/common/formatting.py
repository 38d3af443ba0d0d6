"""Text that several reports share: Markdown tables and durations."""

from collections.abc import Sequence
from typing import Any


def format_markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a Markdown table, or an empty string without rows.

    From the second column on, a table of three or more columns is aligned to the right. Pipes and line breaks inside
    a cell, which would end it, are escaped or replaced by spaces.
    """
    if not rows:
        return ""
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---"] + ["--:" if len(header) > 2 else "---"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def format_duration(seconds: float) -> str:
    """Returns a duration with its unit: `45 s`, `12.5 min` from 100 seconds on, `2.1 h` from 100 minutes on."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def format_markdown_section(heading: str, *paragraphs: str) -> str:
    """Returns a Markdown section of the second level without the empty paragraphs; empty if none is left."""
    body = [paragraph for paragraph in paragraphs if paragraph]
    return "\n\n".join([f"## {heading}", *body]) if body else ""
