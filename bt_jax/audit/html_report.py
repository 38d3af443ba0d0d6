"""The audit as a web page: one file that needs no network, with the images that a person should check."""

import base64
import functools
import html
import io
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from bt_jax.audit import summary
from bt_jax.audit.findings import KINDS, DuplicatePair, Findings
from bt_jax.audit.inspection import CUE_UNITS, CUES, ODDITIES
from bt_jax.audit.shortcuts import Shortcuts
from bt_jax.data.io.decode import decode_image

_SIDE = 150  # of a picture in pixels
_MOST_PAIRS = 24  # in a sheet
_MOST_CLOSE_CALLS = 12
_MOST_CLUSTERS, _MOST_OF_CLUSTER = 6, 6
_MOST_PATHS = 50  # in a list; audit.json has all of them
_MOST_RULES = 8
_NOTABLE_EXCESS = 0.2  # of a shortcut's balanced accuracy above chance

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --bad: #c33; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { margin-top: 2.4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.lead { font-size: 1.15rem; } .notice { border: 2px solid var(--bad); padding: .5rem 1rem; font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--soft); border-radius: .5rem; padding: .6rem 1rem; min-width: 8rem; }
.tile b { display: block; font-size: 1.5rem; } .small { font-size: .85rem; opacity: .8; }
table { border-collapse: collapse; margin: .8rem 0; } th, td { padding: .2rem .8rem .2rem 0; text-align: right; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
td.left, th.left { text-align: left; }
.bar { display: inline-block; height: .7rem; background: #47a; vertical-align: middle; margin-right: .4rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--soft); border-radius: .5rem; padding: .5rem; overflow-wrap: anywhere; }
figure div { display: flex; flex-wrap: wrap; gap: 4px; align-items: flex-start; }
figure img { background: #000; display: block; }
figcaption { font-size: .78rem; line-height: 1.35; margin-top: .3rem; }
.differs { color: var(--bad); font-weight: 600; }
details { margin: .4rem 0; } code { font-size: .85em; }
"""


def render(findings: Findings) -> str:
    """Renders the page as HTML; the shown images are read from the source again."""
    sections = [
        _render_head(findings),
        _render_leaks(findings),
        _render_contradictions(findings),
        _render_pairs(findings),
        _render_shortcuts(findings),
        _render_files(findings),
        _render_groups(findings),
        "<h2>How duplicates are found</h2><p>A nearest-neighbour search on small thumbnails proposes pairs, in eight "
        "orientations. Two images are duplicates if they agree in fine detail after one is aligned with the other. "
        f"Adjacent slices of one head do not. Labels and patients are not used. {html.escape(summary.NOT_COVERED)}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Audit of '
        f'{html.escape(findings.source.description)}</title><meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _render_head(findings: Findings) -> str:
    leaked = summary.count_leaks(findings)
    across, within = findings.count_pairs(across=True), findings.count_pairs(across=False)
    tiles = [
        (f"{len(findings.inspection.records):,}", "images"),
        (f"{len(findings.inspection.unreadable):,}", "unreadable files"),
        (f"{sum(map(bool, findings.inspection.oddities)):,}", "unusual files"),
        (f"{sum(across.values()):,}", "duplicate pairs across splits"),
        (f"{sum(within.values()):,}", "duplicate pairs within a split"),
        (f"{len(findings.contradictions):,}", "pairs with contradictory labels"),
    ]
    text = ["<h1>Audit</h1>", f"<p class=small>{html.escape(findings.source.description)}</p>"]
    if findings.source.notice:
        text.append(f"<p class=notice>{html.escape(findings.source.notice)}</p>")
    if leaked["testing_images"]:
        text.append(
            f"<p class=lead><b>{leaked['with_twin']:,} of {leaked['testing_images']:,} Testing images</b> show the "
            f"same picture as a Training image. {leaked['same_group']:,} more share a patient or group with one. "
            f"<b>{leaked['clean']:,}</b> are clean: only these tell how a model performs on new patients.</p>"
        )
    if isinstance(findings.shortcuts, Shortcuts):
        text.append(f"<p class=lead>The strongest shortcut: <b>{html.escape(findings.shortcuts.strongest)}</b>.</p>")
    text.append(_render_advice(findings))
    text.append(
        "<div class=tiles>" + "".join(f"<div class=tile><b>{n}</b>{what}</div>" for n, what in tiles) + "</div>"
    )
    text += [f"<p class=small>Note: {html.escape(line)}</p>" for line in findings.source.warnings]
    return "".join(text)


def _render_advice(findings: Findings) -> str:
    """Renders what to do about the findings."""
    advice = []
    if findings.leak_kind or findings.same_group:
        advice.append("Report the score on the clean Testing images separately, or leave the others out.")
    if findings.contradictions:
        advice.append("Check the pairs with contradictory labels, and correct or remove one image of each.")
    if findings.clusters:
        advice.append(
            "Split by the groups in <code>audit.json</code>, never at random, to keep duplicates and patients together."
        )
    if isinstance(findings.shortcuts, Shortcuts):
        excess = findings.shortcuts.rules[0].balanced_accuracy - 0.5
        if excess > _NOTABLE_EXCESS:
            advice.append(
                "Remove size, border and brightness as cues: crop to the head, pad instead of stretching, normalise "
                "intensities, and vary all of these in augmentation."
            )
    return "<ul>" + "".join(f"<li>{line}</li>" for line in advice) + "</ul>" if advice else ""


def _render_leaks(findings: Findings) -> str:
    leaked = summary.count_leaks(findings)
    across, within = findings.count_pairs(across=True), findings.count_pairs(across=False)
    text = ["<h2>Duplicates and leaks</h2>"]
    if leaked["testing_images"]:
        rows = [
            (name, *(f"{values[key]:,}" for key in ("testing_images", "with_twin", "same_group")))
            for name, values in leaked["by_class"].items()
        ]
        text.append(
            _render_table(
                ("class in Testing", "images", "with a duplicate in Training", "same patient or group only"), rows
            )
        )
        text.append(
            "<p>A score on images with a duplicate in Training measures memorisation. Report it separately from the "
            "score on clean images, or leave these images out.</p>"
        )
    text.append(_render_table(("pairs listed", *KINDS), [
        ("across splits", *(f"{across[kind]:,}" for kind in KINDS)),
        ("within a split", *(f"{within[kind]:,}" for kind in KINDS)),
    ]))  # fmt: skip
    text.append(
        "<p class=small>exact: all pixels are equal, even if the files differ; near: resized, recompressed, cropped, "
        "or with another contrast. <code>duplicates.csv</code> lists them, except pairs that need alignment and follow "
        "from other pairs.</p>"
    )
    return "".join(text)


def _render_contradictions(findings: Findings) -> str:
    found = findings.contradictions
    if not found:
        return "<h2>Contradictory labels</h2><p>None: duplicates always have the same label.</p>"
    twice = {pair.first for pair in found}
    pictures = sum(not twice.isdisjoint(rows) for rows in findings.clusters)
    return (
        f"<h2>Contradictory labels</h2><p>{len(found):,} pairs, of {pictures:,} pictures, have different labels. One "
        f"label of each pair is wrong. {_describe_limit(len(found), _MOST_PAIRS)}</p>"
        f"{_render_sheet(findings, found[:_MOST_PAIRS])}"
    )


def _render_pairs(findings: Findings) -> str:
    near = _choose_one_of_each_cluster(findings, [pair for pair in findings.pairs if pair.kind == "near"])
    turned = _choose_one_of_each_cluster(
        findings, [pair for pair in findings.pairs if pair.kind in ("mirrored", "rotated")]
    )
    text = ["<h2>Pairs to check</h2>"]
    for pairs, most, heading, remark in (
        (
            near,
            _MOST_PAIRS,
            "Near-duplicates, the least similar first",
            "One pair for each picture; pairs across splits are preferred.",
        ),
        (turned, _MOST_PAIRS, "Mirrored and rotated duplicates", "One pair for each picture."),
        (
            findings.close_calls,
            _MOST_CLOSE_CALLS,
            "Similar, but not duplicates",
            "Their details differ: most likely adjacent slices of one patient. They share a group.",
        ),
    ):
        text.append(f"<h3>{heading}</h3>")
        count = f"{len(pairs):,}. {remark} {_describe_limit(len(pairs), most)}" if pairs else "None."
        text.append(f"<p>{count}</p>{_render_sheet(findings, pairs[:most])}")
    if findings.clusters:
        text.append(f"<h3>Largest sets of duplicates</h3><p>{len(findings.clusters):,} sets.</p><div class=sheet>")
        for rows in findings.clusters[:_MOST_CLUSTERS]:
            pictures = "".join(_render_picture(findings, row, side=_SIDE * 2 // 3) for row in rows[:_MOST_OF_CLUSTER])
            names = "<br>".join(_render_name(findings, row) for row in rows[:_MOST_OF_CLUSTER])
            text.append(
                f"<figure><div>{pictures}</div><figcaption>{len(rows):,} images<br>{names}</figcaption></figure>"
            )
        text.append("</div>")
    return "".join(text)


def _choose_one_of_each_cluster(findings: Findings, pairs: Sequence[DuplicatePair]) -> list[DuplicatePair]:
    """Chooses the least similar pair of each picture, across splits if possible; the least similar pairs come first."""
    cluster_of = {row: number for number, rows in enumerate(findings.clusters) for row in rows}
    chosen: dict[int, DuplicatePair] = {}
    for pair in sorted(pairs, key=lambda pair: (not findings.is_across_splits(pair), pair.similarity)):
        chosen.setdefault(cluster_of[pair.first], pair)
    return list(chosen.values())


def _render_shortcuts(findings: Findings) -> str:
    found = findings.shortcuts
    text = ["<h2>Shortcuts</h2>"]
    if isinstance(found, Shortcuts):
        rows = [("all cues", found.by_all), *found.by_cue.items()]
        text.append(
            f"<p>The accuracy of a small decision tree on these numbers alone, without pixels: {found.images:,} "
            f"Training images, {found.folds}-fold cross-validation by group. Chance is {found.chance:.2f}.</p>"
        )
        bars = [
            (name, _Html(f'<span class=bar style="width:{value * 200:.0f}px"></span>{value:.2f}'))
            for name, value in rows
        ]
        text.append(_render_table(("cue", "balanced accuracy"), bars, left=(1,)))
        rules = [
            (rule.class_name, rule.description, f"{rule.balanced_accuracy:.2f}") for rule in found.rules[:_MOST_RULES]
        ]
        text.append(_render_table(("class against the rest", "rule", "balanced accuracy"), rules, left=(1,)))
        text.append("<p>A network can learn these rules too, instead of anything medical.</p>")
    else:
        text.append(f"<p>Not measured, because {html.escape(found)}.</p>")
    columns = ("split and class", "images", *(f"{cue} ({CUE_UNITS[cue]})" for cue in CUES), "most common size")
    rows_of_medians = [
        (
            f"{row['split']} / {row['class']}",
            f"{row['images']:,}",
            *(f"{row[cue]:.4g}" for cue in CUES),
            f"{row['common_size']}: {row['common_size_share']:.0%}",
        )
        for row in summary.compute_medians(findings)
    ]
    text.append(f"<h3>Medians</h3>{_render_table(columns, rows_of_medians)}")
    return "".join(text)


def _render_files(findings: Findings) -> str:
    unreadable, odd = findings.inspection.unreadable, findings.list_oddities()
    text = ["<h2>Unreadable and unusual files</h2>"]
    if unreadable:
        lines = [f"{record.path}: {reason}" for record, reason in unreadable]
        text.append(f"<p>{len(lines):,} files are not readable images.</p>{_render_list(lines)}")
    for kind, rows in odd.items():
        paths = [findings.inspection.records[row].path for row in rows]
        pictures = "".join(_render_picture(findings, row, side=_SIDE * 2 // 3) for row in rows[:8])
        text.append(
            f"<details><summary>{len(rows):,} {kind}: {ODDITIES[kind]}</summary>{_render_list(paths)}</details>"
            f"<figure><div>{pictures}</div></figure>"
        )
    if not unreadable and not odd:
        text.append("<p>None.</p>")
    return "".join(text)


def _render_groups(findings: Findings) -> str:
    counts = np.unique(np.asarray(findings.groups), return_counts=True)[1]
    return (
        f"<h2>Patients and groups</h2><p>{len(counts):,} groups, the largest of {counts.max(initial=0):,} images: "
        f"{html.escape(findings.grouping)}. A group must not be divided between splits; <code>audit.json</code> has "
        f"the group of every image.</p>"
    )


class _Html(str):
    """A string that is HTML already and needs no escaping."""


def _render_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: tuple[int, ...] = ()) -> str:
    """Renders a table; the first column and those in `left` are left-aligned, the others right-aligned."""

    def render_cells(row: Sequence[str], tag: str) -> str:
        shown = (cell if isinstance(cell, _Html) else html.escape(cell) for cell in row)
        starts = (f"<{tag} class=left>" if column in left else f"<{tag}>" for column in range(len(row)))
        return "<tr>" + "".join(f"{start}{cell}</{tag}>" for start, cell in zip(starts, shown, strict=True)) + "</tr>"

    return f"<table>{render_cells(header, 'th')}{''.join(render_cells(row, 'td') for row in rows)}</table>"


def _render_list(lines: Sequence[str]) -> str:
    shown = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in lines[:_MOST_PATHS])
    rest = f"<li>and {len(lines) - _MOST_PATHS:,} more</li>" if len(lines) > _MOST_PATHS else ""
    return f"<ul>{shown}{rest}</ul>"


def _describe_limit(count: int, most: int) -> str:
    return f"The first {most} are shown." if count > most else ""


def _render_sheet(findings: Findings, pairs: Sequence[DuplicatePair]) -> str:
    figures = []
    for pair in pairs:
        differ = findings.get_label(pair.first) != findings.get_label(pair.second)
        kind = f"{pair.kind}, similarity {pair.similarity:.3f}" + (
            ", across splits" if findings.is_across_splits(pair) else ""
        )
        figures.append(
            f"<figure><div>{_render_picture(findings, pair.first)}{_render_picture(findings, pair.second)}</div>"
            f"<figcaption>{kind}"
            + (" <span class=differs>labels differ</span>" if differ else "")
            + f"<br>{_render_name(findings, pair.first)}<br>{_render_name(findings, pair.second)}</figcaption></figure>"
        )
    return f"<div class=sheet>{''.join(figures)}</div>" if figures else ""


def _render_name(findings: Findings, row: int) -> str:
    return html.escape(findings.inspection.records[row].path)


def _render_picture(findings: Findings, row: int, *, side: int = _SIDE) -> str:
    record = findings.inspection.records[row]
    uri = _encode_data_uri(findings.source.read, record.path, side)
    return f'<img src="{uri}" alt="{html.escape(record.path)}" title="{html.escape(record.path)}">'


@functools.lru_cache(maxsize=256)
def _encode_data_uri(read: Callable[[str], bytes], path: str, side: int) -> str:
    """Encodes a small JPEG of the image as a data URI."""
    image = decode_image(read(path), name=path)
    if image.dtype != np.uint8:
        image = (image / max(int(image.max()), 1) * 255).astype(np.uint8)
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
