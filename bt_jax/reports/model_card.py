"""The model card: a summary of a model in Markdown. Scores and limits come first, then how it was trained."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from bt_jax.common import files
from bt_jax.common.formatting import format_duration, format_markdown_section, format_markdown_table
from bt_jax.data import class_labels
from bt_jax.metrics.selective import ConfidenceLimit, Selection
from bt_jax.reports import limits, score_sections, score_text
from bt_jax.reports.score_sections import Results, escape_link

MIRRORED = ", the mean over an image and its mirror image"  # completes `model`
HEAT_MAPS, _CURVES = "heat_maps.png", "training_curves.png"  # pictures beside the card


class ModelFacts(TypedDict, total=False):
    """What a model card says besides the scores. Every key may be absent; then the card leaves it out.

    Attributes:
      title: heading of the card, such as the name of the run.
      summary: what a reader must know before the scores, in sentences.
      model: architecture, with input size.
      parameters: number of parameters.
      weights: initial weights, and where they came from.
      data_source: where the images came from, with version, licence or hash.
      provenance: hashes and commit by what they identify, such as {"weights, SHA-256": "77cc..."}.
      synthetic: whether the images are synthetic. Absent: True if the card carries a notice.
      kaggle_set: whether these are images of the Kaggle set, whose limits the card then lists. Absent: by the classes.
      images: number of images of each part, such as {"training": 2296, "validation": 574}.
      classes: class names in their order.
      split: how validation images were separated from training images.
      preprocessing: what is done to an image before the model sees it.
      augmentation: what is varied at random in training.
      stages: one line for each training stage, in order.
      epochs: passes over the training images.
      best_step: optimizer step of the checkpoint that was kept.
      licences: of the images and the initial weights, one or more sentences for each.
      shift_probe: the recall on images of a class from another source, as a clause.
      calibration: a sentence about the temperature.
      selections: what limits of the confidence leave of the images.
      limit: the one below which an answer carries a warning; None if no limit was good enough.
      asked_accuracy: the share of right answers that the limit was chosen for.
      checked: what limits fitted on all folds but one leave of the other one, summed over the folds; None if there was
        no such limit.
      doubt: how many images of each kind were flagged as out-of-distribution, as clauses.
      seed: of the random numbers.
      versions: of the libraries, by name.
      duration_s: seconds from start to end, training and evaluation together.
    """

    title: str
    summary: str
    model: str
    parameters: int
    weights: str
    data_source: str
    provenance: Mapping[str, str]
    synthetic: bool
    kaggle_set: bool
    images: Mapping[str, int]
    classes: Sequence[str]
    split: str
    preprocessing: str
    augmentation: str
    stages: Sequence[str]
    epochs: float
    best_step: int
    licences: Sequence[str]
    shift_probe: str
    calibration: str
    selections: Sequence[Selection]
    limit: ConfidenceLimit | None
    asked_accuracy: float
    checked: Selection | None
    doubt: str
    seed: int
    versions: Mapping[str, str]
    duration_s: float


def write_model_card(path: files.Path, *, facts: ModelFacts, metrics: Results, notice: str | None = None) -> None:
    """Writes the model card in Markdown. It shows the pictures that exist beside it.

    Args:
      path: of the card. The report of a split lies in a folder beside it that has the split's name.
      facts: about the model.
      metrics: the results of `split_report.write_split_report` by name of the split.
      notice: a warning that is printed on top, such as that the images are synthetic.

    Raises:
      ValueError: `facts` has an unknown key.
    """
    path = pathlib.Path(path)
    unknown = sorted(set(facts) - set(ModelFacts.__annotations__))
    if unknown:
        raise ValueError(f"unknown facts of a model card: {', '.join(unknown)}")
    parts = [
        f"# {facts.get('title', 'Model card')}",
        f"> **{notice}**" if notice else "",
        "This model is a research tool. It is not a medical device. Do not use it to decide on a patient's care.",
        facts.get("summary", ""),
        "\n".join(f"- {score_text.summarise_scores(result)}" for result in metrics.values()),
        score_sections.format_results(metrics),
        _format_shift_probe(facts),
        _format_limits(facts, metrics, synthetic=facts.get("synthetic", notice is not None)),
        _format_facts(facts),
        score_sections.format_calibration(metrics, remark=facts.get("calibration")),
        _format_selections(facts),
        _format_ood_detection(facts),
        *(score_sections.format_class_scores(name, result, path.parent) for name, result in metrics.items()),
        _format_heat_maps(path.parent),
        _format_training(facts, path.parent),
        format_markdown_section("Licences", "\n".join(f"- {one}" for one in facts.get("licences", ()))),
        _format_files(metrics, path.parent),
    ]
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _format_shift_probe(facts: ModelFacts) -> str:
    if "shift_probe" not in facts:
        return ""
    return format_markdown_section(
        "Shift probe",
        f"{facts['shift_probe'][0].upper()}{facts['shift_probe'][1:]}.",
        "These images came from another source than the training images of their class. A model that distinguishes "
        "sources instead of tumours fails here, even if it does well on the validation images.",
    )


def _format_limits(facts: ModelFacts, results: Results, *, synthetic: bool) -> str:
    classes = facts.get("classes") or next((list(result["per_class"]) for result in results.values()), [])
    kaggle_set = facts.get("kaggle_set", tuple(classes) == class_labels.BRAIN_TUMOR_CLASSES)
    points = limits.list_limits(synthetic=synthetic, kaggle_set=kaggle_set)
    return format_markdown_section("Limits", "\n".join(f"- {point}" for point in points))


def _format_facts(facts: ModelFacts) -> str:
    rows = [
        ("Model", facts.get("model")),
        ("Parameters", f"{facts['parameters']:,}" if "parameters" in facts else None),
        ("Initial weights", facts.get("weights")),
        ("Data", facts.get("data_source")),
        ("Images", ", ".join(f"{name} {count:,}" for name, count in facts.get("images", {}).items())),
        ("Classes", ", ".join(f"`{name}`" for name in facts.get("classes", ()))),
        ("Split", facts.get("split")),
        ("Preprocessing", facts.get("preprocessing")),
        *((f"{what[0].upper()}{what[1:]}", f"`{value}`") for what, value in facts.get("provenance", {}).items()),
    ]
    return format_markdown_section(
        "The model", format_markdown_table(["", ""], [[f"**{name}**", text] for name, text in rows if text])
    )


def _format_selections(facts: ModelFacts) -> str:
    if "selections" not in facts:
        return ""
    limit, checked = facts.get("limit"), facts.get("checked")
    rows = [
        [f"{one.limit:.2f}", f"{one.coverage:.1%}", f"{one.accuracy:.1%}" if one.answered else "-"]
        for one in facts["selections"]
    ]
    return format_markdown_section(
        "Answers without a warning",
        f"An answer carries a warning if its confidence is below {limit.value:.2f}, or if the image is "
        f"out-of-distribution. Of {limit.fitted_on}, {limit.coverage:.1%} had neither warning, and of these, "
        f"{limit.accuracy:.1%} were right. The limit was chosen on the same images, as the lowest with "
        f"{facts['asked_accuracy']:.0%} right."
        if limit
        else f"No limit of the confidence left {facts['asked_accuracy']:.0%} right answers, so none is set.",
        f"As a check, limits that were chosen on all folds but one, and applied to the other one, leave "
        f"{checked.coverage:.1%} of the images, of which {checked.accuracy:.1%} are right."
        if checked
        else "",
        format_markdown_table(["Limit of the confidence", "Answers above it", "Right answers among these"], rows),
        "Answers on images that are out-of-distribution are not counted. The shares hold for images like these. On "
        "images from other places more answers without a warning may be wrong.",
    )


def _format_ood_detection(facts: ModelFacts) -> str:
    if "doubt" not in facts:
        return ""
    return format_markdown_section(
        "Out-of-distribution detection",
        "A classifier assigns one of its classes to every picture. The model therefore flags an image as "
        "out-of-distribution (OOD) if its features lie farther from those of the training images than those of 99 % of "
        f"the images that its threshold was fitted on: {facts['doubt']}.",
        "The flag is meant for pictures of another kind. It does not separate wrong predictions from right ones. It "
        "can miss an unknown disease, another sequence, or a slice of another part of the head.",
    )


def _format_heat_maps(folder: pathlib.Path) -> str:
    if not (folder / HEAT_MAPS).is_file():
        return ""
    return format_markdown_section(
        "Heat maps",
        "The colours show what spoke for the predicted class. The images are chosen by their position in the split, "
        "whatever their scores. A heat map does not outline a tumour.",
        f"![images with heat maps]({HEAT_MAPS})",
    )


def _format_training(facts: ModelFacts, folder: pathlib.Path) -> str:
    sentences = [
        f"{facts['epochs']:g} epochs." if "epochs" in facts else "",
        f"The checkpoint of step {facts['best_step']:,} was kept." if "best_step" in facts else "",
        f"Seed {facts['seed']}." if "seed" in facts else "",
        f"The run took {format_duration(facts['duration_s'])}." if "duration_s" in facts else "",
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    return format_markdown_section(
        "Training",
        " ".join(sentence for sentence in sentences if sentence),
        f"Augmentation: {facts['augmentation']}" if "augmentation" in facts else "",
        "\n".join(f"{number}. {stage}" for number, stage in enumerate(facts.get("stages", ()), start=1)),
        f"Versions: {versions}." if versions else "",
        f"![training curves]({_CURVES})" if (folder / _CURVES).is_file() else "",
    )


def _format_files(metrics: Mapping[str, Any], folder: pathlib.Path) -> str:
    rows = [
        f"- [{file}]({file}): {meaning}"
        for file, meaning in (
            (_CURVES, "losses, scores and learning rate of the run"),
            (HEAT_MAPS, "a few images with heat maps"),
        )
        if (folder / file).is_file()
    ]
    for name in metrics:
        for file, meaning in (
            ("metrics.json", "all scores, in machine-readable form"),
            ("predictions.csv", "the probabilities of every image"),
            ("images.csv", "the patient of every image if known, and whether the image is leaked"),
            ("classification_report.txt", "the tables as text"),
        ):
            if (folder / name / file).is_file():
                rows.append(f"- [{name}/{file}]({escape_link(name)}/{file}): {meaning}")
    return format_markdown_section("Files", "\n".join(rows))
