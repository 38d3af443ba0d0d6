import pathlib

import hypothesis
from hypothesis import strategies as st

from bt_jax.common.spread import Spread
from bt_jax.experiments import tables
from bt_jax.experiments.finished_runs import FinishedRun
from bt_jax.experiments.tables import ComparisonRow, Significance

NAMES = ("accuracy", "macro_f1", "recall a", "training_s", "images_per_s")
OUTCOME = Significance(
    seeds=(0, 1, 2), counts=((3, 9), (4, 4), (0, 8)), p_values=(0.146, 1.0, 0.0078), combined=0.292, by_group=0.0004,
    groups=17,
)  # fmt: skip


def run(seed: int, classes=("a", "b")) -> FinishedRun:
    scores = {"validation": {"per_class": {name: {} for name in classes}}}
    return FinishedRun(
        folder=pathlib.Path("run"),
        config={},
        seed=seed,
        fold=None,
        synthetic=False,
        scores=scores,
        curves=[],
        seconds=1.0,
    )


def spread(mean: float, low: float, high: float) -> Spread:
    return Spread(mean=mean, median=mean, low=low, high=high)


def row(name: str, *, scores=None, settings=None, parameters=1234, flops=5_000_000, runs=2) -> ComparisonRow:
    return ComparisonRow(
        name=name, settings=settings or {}, runs=tuple(run(seed) for seed in range(runs)), scores=scores or {},
        parameters=parameters, flops=flops,
    )  # fmt: skip


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_shift_probe_has_a_column_where_a_row_has_one():
    probed = row("x", scores={"probe_recall": spread(0.25, 0.2, 0.3)})
    text = tables.format_markdown([probed, row("y")], tests={}, reference="x")
    place = cells(text, "Row").index("Shift probe")
    assert [cells(text, f"`{name}`")[place] for name in "xy"] == ["0.250 (0.200 to 0.300)", "-"]
    assert "from another source, which were excluded from training" in text
    assert "Shift probe" not in tables.format_markdown([row("y")], tests={}, reference="y")
    first, second = tables.summarise_rows([probed, row("y")]).splitlines()
    assert first.endswith("shift probe 0.250 (0.200 to 0.300)") and "probe" not in second


def test_a_row_in_markdown():
    scores = {
        "accuracy": spread(0.9, 0.85, 0.95), "macro_f1": spread(0.8, 0.8, 0.8), "recall a": spread(1.0, 1.0, 1.0),
        "training_s": spread(90, 80, 200), "images_per_s": spread(1234.5, 1234.5, 1234.5),
    }  # fmt: skip
    text = tables.format_markdown([row("mlp", scores=scores)], tests={}, reference="mlp")
    assert cells(text, "`mlp`") == [
        "`mlp`", "2", "2", "0.900 (0.850 to 0.950)", "0.800", "1.000", "-", "1,234", "5", "90 s (80 s to 3.3 min)",
        "1,234.5",
    ]  # fmt: skip
    assert "Significance" not in text and "Excluded" not in text and "Testing folder" not in text


def test_the_tests_in_markdown():
    rows = [row("mlp"), row("cnn"), row("vgg16")]
    text = tables.format_markdown(rows, tests={"cnn": OUTCOME, "vgg16": "the images differ"}, reference="mlp")
    lines = text[text.index("## Significance") :]
    assert cells(lines, "`cnn`") == [
        "`cnn`", "3", "2.33 (0 to 4)", "7 (4 to 9)", "0.146 (0.008 to 1.000)", "0.292", "4.0e-04 (17 groups)",
    ]  # fmt: skip
    assert cells(lines, "`vgg16`")[1] == "not tested" and cells(lines, "`vgg16`")[-1] == "the images differ"


def test_settings_have_a_table_where_the_names_do_not_say_them():
    settings = [{"model.name": "mlp", "a": 1, "b": 2, "c": [3]}, {"model.name": "cnn", "a": 0, "b": 1, "c": []}]
    rows = [row(f"name={one['model.name']}", settings=one) for one in settings]
    text = tables.format_markdown(rows, tests={}, reference="")
    assert "| `name=cnn` | `cnn` | `0` | `1` | `[]` |" in text
    named = [row("a=1", settings={"a": 1}), row("a=2", settings={"a": 2})]
    assert "Settings that differ" not in tables.format_markdown(named, tests={}, reference="")


spreads = st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9)).map(lambda three: spread(*sorted(three)))
rows_of_any_kind = st.lists(
    st.builds(
        row,
        st.text(alphabet="ab=|-", min_size=1),
        scores=st.dictionaries(st.sampled_from(NAMES), spreads),
        settings=st.just({"model.hidden": [1]}),
        parameters=st.none() | st.integers(0, 10**9),
        flops=st.none() | st.integers(0, 10**12),
        runs=st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.name,
)


@hypothesis.given(rows_of_any_kind)
def test_tables_are_rectangles(rows):
    tests = {
        one.name: outcome
        for one, outcome in zip(rows[1:], (OUTCOME, "the rows have no seed in common", OUTCOME), strict=False)
    }
    header, lines = tables.make_csv_rows(rows, tests=tests, reference=rows[0].name)
    assert {len(line) for line in lines} == {len(header)}
    assert len(set(header)) == len(header)
    text = tables.format_markdown(rows, tests=tests, reference=rows[0].name)
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
    assert len(tables.summarise_rows(rows).splitlines()) == len(rows)
