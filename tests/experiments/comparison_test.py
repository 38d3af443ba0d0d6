import csv
import itertools
import json
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.experiments import comparison, finished_runs
from bt_jax.metrics import classification, significance
from tests import synthetic_runs
from tests.synthetic_runs import write

N = 40


def rights(share: float, seed: int) -> list[bool]:
    """So large a share of the images is right, which ones is random."""
    return [bool(r) for r in np.random.default_rng(seed).permutation(N) < share * N]


@pytest.fixture
def study(tmp_path):
    """Two sizes by two lengths, three seeds each; wider is better."""
    for (hidden, share), epochs, seed in itertools.product((((64,), 0.5), ((256, 64), 0.9)), (5.0, 20.0), range(3)):
        write(
            tmp_path / "study" / f"{hidden}_{epochs}" / f"seed_{seed}",
            right=rights(share, seed),
            seed=seed,
            seconds=100 * (seed + 1),
            model__hidden=list(hidden),
            stages__epochs=epochs,
        )
    return tmp_path / "study"


def rows_of(*folders):
    return comparison.make_rows(finished_runs.find_runs(folders)[0])


def test_runs_that_differ_in_the_seed_alone_are_one_row(study):
    rows = rows_of(study)
    assert [row.name for row in rows] == [
        "hidden=64 epochs=5", "hidden=64 epochs=20", "hidden=256-64 epochs=5", "hidden=256-64 epochs=20",
    ]  # fmt: skip
    assert [(row.seeds, len(row.runs)) for row in rows] == [(3, 3)] * 4
    spread = rows[0].scores["training_s"]
    assert (spread.mean, spread.low, spread.high) == (200, 100, 300)
    assert rows[0].scores["accuracy"].mean == 0.5
    assert rows[0].settings == {"model.hidden": [64], "stages.epochs": 5.0}
    assert rows[0].scores["images_per_s"].mean == 200  # the upper of the two that are in the middle
    assert {"macro_f1", "recall glioma_tumor", "recall no_tumor"} <= rows[0].scores.keys()


def test_folds_are_one_row(tmp_path):
    for seed, fold in itertools.product((0, 1), (0, 1, 2)):
        write(
            tmp_path / f"cv{seed}" / f"fold_{fold}",
            right=rights((fold + 1) / 4, fold), first_image=N * fold, seed=seed, data__fold=fold, synthetic=True,
        )  # fmt: skip
    (row,) = rows_of(tmp_path)
    assert (row.name, row.seeds, len(row.runs)) == ("mlp", 2, 6)
    assert (row.scores["accuracy"].low, row.scores["accuracy"].high) == (0.25, 0.75)


def test_without_a_checkpoint_the_size_is_unknown(study):
    assert {(row.parameters, row.flops) for row in rows_of(study)} == {(None, None)}


names = st.sampled_from(["model.name", "model.hidden", "stages.epochs", "loss.name", "train.rate", "train.size"])
values = st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2) | st.sampled_from(["a", "b"])


@hypothesis.given(st.lists(st.dictionaries(names, values), min_size=1, max_size=8))
def test_rows_have_names_of_their_own_from_what_differs(configs):
    different = list({json.dumps(config, sort_keys=True): config for config in configs}.values())
    settings = comparison.find_differing_fields(different)
    for field in settings[0]:
        assert len({json.dumps(config.get(field)) for config in different}) > 1
    for field in {field for config in different for field in config} - settings[0].keys():
        assert len({json.dumps(config.get(field)) for config in different}) == 1
    found = comparison.name_rows(settings, default="mlp")
    assert len(set(found)) == len(different)
    if len(different) == 1:
        assert found == ["mlp"]


def test_many_differing_fields_are_not_all_in_the_names():
    settings = [
        {
            "model.name": name,
            "preprocess.size": size,
            "stages.epochs": epochs,
            "a.b": size,
            "c.d": 0 if size == 64 else 1,
        }
        for name, size, epochs in (("mlp", 64, 5.0), ("cnn", 96, 5.0), ("cnn", 96, 20.0))
    ]
    assert comparison.name_rows(settings, default="") == [
        "name=mlp epochs=5",
        "name=cnn epochs=5",
        "name=cnn epochs=20",
    ]
    assert comparison.name_rows(settings[:2], default="") == ["name=mlp", "name=cnn"]


def test_fields_that_end_alike_are_named_in_full():
    settings = [{"optimizer.name": "adam", "model.name": "mlp"}, {"optimizer.name": "adamw", "model.name": "mlp"}]
    assert comparison.name_rows(settings, default="")[0] == "model.name=mlp optimizer.name=adam"


def runs_of(folder, **arguments):
    return [finished_runs.read_run(write(folder, **arguments))]


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=20))
def test_a_row_is_tested_on_the_images_that_one_alone_got_right(tmp_path_factory, pairs):
    tmp_path = tmp_path_factory.mktemp("pairs")
    first, second = zip(*pairs, strict=True)
    outcome = comparison.compare_with_reference(
        runs_of(tmp_path / "a", right=first), runs_of(tmp_path / "b", right=second)
    )
    ours, theirs = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    assert outcome.counts == ((ours, theirs),)
    assert outcome.p_values == (significance.mcnemar(ours, theirs),)
    assert outcome.combined == outcome.p_values[0]
    assert outcome.groups == len(pairs)


def test_seeds_are_paired(tmp_path):
    """Seeds 0 and 1 are in both rows; that of the reference alone counts for nothing."""
    reference = [
        run for seed in (0, 1, 5) for run in runs_of(tmp_path / f"a{seed}", right=rights(0.5, seed), seed=seed)
    ]
    other = [run for seed in (1, 0) for run in runs_of(tmp_path / f"b{seed}", right=[True] * N, seed=seed)]
    outcome = comparison.compare_with_reference(reference, other)
    assert outcome.seeds == (0, 1)
    assert outcome.counts == ((0, 20), (0, 20))
    assert outcome.combined == 2 * significance.mcnemar(0, 20)
    assert outcome.by_group < 0.001


def test_slices_of_a_patient_count_once(tmp_path):
    groups = [f"patient {i // 10}" for i in range(N)]
    reference = runs_of(tmp_path / "a", right=[False] * N, groups=groups)
    outcome = comparison.compare_with_reference(reference, runs_of(tmp_path / "b", right=[True] * N, groups=groups))
    assert outcome.groups == 4
    assert outcome.p_values[0] < 1e-10 and outcome.by_group == pytest.approx(2 / 16, abs=0.02)


def test_phantoms_of_another_seed_are_other_patients(tmp_path):
    rows = [
        [
            run
            for seed in (0, 1)
            for run in runs_of(
                tmp_path / f"{right}{seed}", right=[right] * N, seed=seed, pixels=str(seed), synthetic=True
            )
        ]
        for right in (False, True)
    ]
    assert comparison.compare_with_reference(*rows).groups == 2 * N


def test_folds_are_tested_together(tmp_path):
    rows = [
        [
            run
            for fold in (0, 1)
            for run in runs_of(
                tmp_path / str(share) / f"fold_{fold}", right=rights(share, fold), first_image=N * fold, data__fold=fold
            )
        ]
        for share in (0.5, 1.0)
    ]
    assert comparison.compare_with_reference(*rows).counts == ((0, 40),)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 4}, "the rows have no seed in common"),
        ({"pixels": "other"}, "the validation images of seed 0 differ"),
        ({"first_image": 2}, "the validation images of seed 0 differ"),
    ],
)
def test_other_images_are_not_tested(tmp_path, changes, reason):
    reference = runs_of(tmp_path / "a", right=[True] * 4)
    assert comparison.compare_with_reference(reference, runs_of(tmp_path / "b", right=[True] * 4, **changes)) == reason


def test_the_files(study, tmp_path):
    out, said = tmp_path / "out", []
    write(study / "half", right=[], finished=False)
    comparison.write_comparison([study], out, say=said.append)
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "comparison.md", "curves.png"]
    text = (out / "comparison.md").read_text()
    assert "| `hidden=256-64 epochs=5` | 3 | 3 | 0.900 |" in text
    assert "Each row is tested against the reference `hidden=64 epochs=5`." in text
    assert SYNTHETIC_NOTICE not in text
    assert f"{study / 'half'} is not finished" in text
    assert f"excluded: {study / 'half'} is not finished" in said
    with (out / "comparison.csv").open() as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    assert float(table["hidden=64 epochs=5"]["accuracy_mean"]) == 0.5
    assert float(table["hidden=256-64 epochs=5"]["mcnemar_p_combined"]) < 0.05
    assert float(table["hidden=64 epochs=20"]["p_by_group"]) == 1.0
    assert table["hidden=64 epochs=5"]["mcnemar_p_median"] == ""
    assert table["hidden=64 epochs=20"]["model.hidden"] == "[64]"


def test_another_reference(study, tmp_path):
    comparison.write_comparison([study], tmp_path / "out", reference="hidden=256-64 epochs=5", say=lambda line: None)
    assert "reference `hidden=256-64 epochs=5`" in (tmp_path / "out" / "comparison.md").read_text()
    with pytest.raises(UsageError, match=r"--reference is 'best', which is not a row: use one of 'hidden=64"):
        comparison.write_comparison([study], tmp_path / "out", reference="best")


def test_rows_that_cannot_be_tested_are_named(tmp_path):
    write(tmp_path / "runs" / "a", right=[True] * 4)
    write(tmp_path / "runs" / "b", right=[True] * 6, model__name="cnn")
    said = []
    comparison.write_comparison([tmp_path / "runs"], tmp_path / "out", say=said.append)
    (line,) = [line for line in said if line.startswith("not tested: ")]
    assert re.fullmatch(
        r"not tested: name=cnn data=\w{8} against name=mlp data=\w{8}: the validation images of seed 0 differ", line
    )
    assert re.search(r"\| `name=cnn data=\w{8}` \| not tested \|", (tmp_path / "out" / "comparison.md").read_text())


def test_phantoms_are_called_synthetic(tmp_path):
    write(tmp_path / "run", right=[True] * 4, synthetic=True)
    comparison.write_comparison([tmp_path / "run"], tmp_path / "out", say=lambda line: None)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert SYNTHETIC_NOTICE in text and "Significance" not in text


def test_clean_and_leaked_images_of_the_testing_folder_are_told_apart(tmp_path):
    folder = write(tmp_path / "run", right=[True] * 4)
    part = {"n": 4, "accuracy": 0.25}
    scores = {"subsets": {"clean": part, "leaked": {"n": 0, "accuracy": None}}}
    files.write_json(folder / "report" / "testing" / "metrics.json", scores)
    comparison.write_comparison([folder], tmp_path / "out", say=lambda line: None)
    assert "| `mlp` | 4 | 0.250 | 0 | - |" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(("leaked", "expected"), [(0, 0.5), (4, 0.75), (8, 0.5)])
def test_the_recall_on_a_shift_probe_is_that_of_its_clean_images(tmp_path, leaked, expected):
    folder = write(tmp_path / "run", right=[True] * 8)
    predictions = np.array([1, 1, 1, 0, 0, 0, 0, 1])  # the class is the second; the last four may be leaked
    scores = classification.score(
        split="source_probe", labels=np.ones(8, int), probabilities=np.eye(2)[predictions],
        class_names=synthetic_runs.CLASSES, leaked=np.arange(8) >= 8 - leaked,
    )  # fmt: skip
    files.write_json(folder / "report" / "source_probe" / "metrics.json", scores)
    (row,) = comparison.make_rows([finished_runs.read_run(folder)])
    assert row.scores["probe_recall"].mean == expected


def test_nothing_finished(tmp_path):
    write(tmp_path / "run", right=[], finished=False)
    with pytest.raises(UsageError, match="none of these runs is finished"):
        comparison.write_comparison([tmp_path], tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()
