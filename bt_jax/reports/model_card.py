"""The model card: what a reader must know of a model, first what it is worth, then how it was made."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from bt_jax.common import files
from bt_jax.data import class_labels
from bt_jax.metrics import classification
from bt_jax.reports import limits, score_text
from bt_jax.reports.score_text import format_image_count, format_score

_PICTURES = ("confusion_matrix.png", "roc_curves.png", "calibration.png")
Results = Mapping[str, Mapping[str, Any]]


class ModelFacts(TypedDict, total=False):
    """What a model card says beside the metrics. Every key may be absent; then the card is silent about it.

    Attributes:
      title: heading of the card, such as the name of the run.
      model: architecture, with input size.
      parameters: number of parameters.
      weights: what training started from, and where that came from.
      data_source: where the images came from, with version, licence or hash.
      provenance: hashes and commit by what they are of, such as {"weights, SHA-256": "77cc..."}.
      synthetic: True if the images are made up. Absent: True where the card carries a notice.
      kaggle_set: whether these are images of the Kaggle set, whose faults the card then names. Absent: by the classes.
      images: number of images in each part, such as {"training": 2296, "validation": 574}.
      classes: class names in their order.
      split: how validation images were separated from training images.
      preprocessing: what happens to an image before the model sees it.
      augmentation: what is varied at random in training.
      stages: one line for each stage of training, in order.
      epochs: passes over the training images.
      best_step: optimiser step of the checkpoint that was kept.
      shift_probe: how many images of a class from another source are recognised, as a clause.
      calibration: what is to be said of the temperature beside the metrics, as a clause.
      doubt: how often the model doubts that an image is of its kind, as clauses.
      seed: of the random numbers.
      versions: of the libraries, by name.
      duration_s: seconds from start to end, training and evaluation together.
    """

    title: str
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
    shift_probe: str
    calibration: str
    doubt: str
    seed: int
    versions: Mapping[str, str]
    duration_s: float


def write_model_card(path: files.Path, *, facts: ModelFacts, metrics: Results, notice: str | None = None) -> None:
    """Writes the model card in Markdown. Pictures that already lie beside it are shown in it.

    Args:
      path: of the card. The report of a split is looked for in a folder beside it that bears the split's name.
      facts: what is known about the model.
      metrics: the results of `split_report.write_split_report` by name of the split.
      notice: a warning that is printed on top, such as that the images are synthetic.

    Raises:
      ValueError: `facts` with a key that the card does not know.
    """
    path = pathlib.Path(path)
    unknown = sorted(set(facts) - set(ModelFacts.__annotations__))
    if unknown:
        raise ValueError(f"the model card knows no fact named {', '.join(unknown)}")
    parts = [
        f"# {facts.get('title', 'Model card')}",
        f"> **{notice}**" if notice else "",
        "This model is a research tool. It is not a medical device, and nothing it says may guide a patient's care.",
        _summarise_scores(metrics),
        _write_results(metrics),
        _write_shift_probe(facts),
        _write_limits(facts, metrics, synthetic=facts.get("synthetic", notice is not None)),
        _write_facts(facts),
        _write_calibration(facts, metrics),
        _write_ood_detection(facts),
        *(_write_split(name, result, path.parent) for name, result in metrics.items()),
        _write_training(facts, path.parent),
        _write_files(metrics, path.parent),
    ]
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _summarise_scores(results: Results) -> str:
    return "\n".join(f"- {score_text.summarise_scores(result)}" for result in results.values())


def _write_results(results: Results) -> str:
    if not results:
        return ""
    parts = {title: part for name, result in results.items() for title, part in _list_subsets(name, result)}
    rows = [
        [title, part["n"], part["patients"]["n"] if part["patients"] else "-", format_score(part["accuracy"])]
        + [score_text.format_accuracy_interval(part)]
        + [format_score(part[key]) for key in ("macro_f1", "macro_auc", "macro_average_precision")]
        + [_format_unbiased_ece(part)]
        for title, part in parts.items()
    ]
    header = ["Images of", "Number", "Patients", "Accuracy", "95 % interval", "Macro F1", "Macro AUC", "PR-AUC", "ECE"]
    known = {title: part["patients"] for title, part in parts.items() if part["patients"] and part["n"]}
    patient_rows = [
        [title, part["n"]]
        + [
            f"{format_score(part[key])} ({score_text.format_patient_interval(part, part[f'{key}_ci95'])})"
            for key in ("accuracy", "macro_f1")
        ]
        for title, part in known.items()
    ]
    leaks = any(result["subsets"]["leaked"]["n"] for result in results.values())
    return _make_section(
        "Results",
        _table(header, rows),
        "Judge the model by the clean images. A leaked image has a twin among those the model was trained or "
        "chosen on, so a model that merely remembers gets it right."
        if leaks
        else "",
        "The interval resamples patients, each with all its images, where patients are known; elsewhere it resamples "
        "images, which err together where several come from one patient: then the true uncertainty is larger. Macro "
        "averages weigh the classes that have images alike. PR-AUC is the average precision. ECE is the expected "
        "calibration error: how far confidence and accuracy lie apart on average.",
        "One answer for each patient, from the mean of the probabilities of its images:" if patient_rows else "",
        _table(["Patients of", "Number", "Accuracy (95 % interval)", "Macro F1 (95 % interval)"], patient_rows),
        *(
            f"{name}: {score_text.describe_patients(result['patients'])}."
            for name, result in results.items()
            if result["patients"]
        ),
    )


def _format_unbiased_ece(part: Mapping[str, Any]) -> str:
    """The ECE, that before calibration where the images scored are those that the temperature was fitted on."""
    biased = part["calibration"] and part["calibration"]["biased"]
    return (
        f"{format_score(part['calibration']['ece_before'])} before calibration" if biased else format_score(part["ece"])
    )


def _list_subsets(name: str, result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What a split's results are told of, the clean images first."""
    if not result["subsets"]["leaked"]["n"]:
        return [(name, result)]
    return [
        (f"**{name}, clean images**", result["subsets"]["clean"]),
        (f"{name}, leaked images", result["subsets"]["leaked"]),
        (f"{name}, all images", result),
    ]


def _write_shift_probe(facts: ModelFacts) -> str:
    if "shift_probe" not in facts:
        return ""
    return _make_section(
        "Shift probe",
        f"{facts['shift_probe'][0].upper()}{facts['shift_probe'][1:]}.",
        "Such images came from another source than the class's training images. A model that tells sources apart, and "
        "not tumours, fails here, however well it does on the validation images.",
    )


def _write_facts(facts: ModelFacts) -> str:
    rows = [
        ("Model", facts.get("model")),
        ("Parameters", f"{facts['parameters']:,}" if "parameters" in facts else None),
        ("Starting weights", facts.get("weights")),
        ("Data", facts.get("data_source")),
        ("Images", ", ".join(f"{name} {count:,}" for name, count in facts.get("images", {}).items())),
        ("Classes", ", ".join(f"`{name}`" for name in facts.get("classes", ()))),
        ("Split", facts.get("split")),
        ("Preprocessing", facts.get("preprocessing")),
        *((f"{what[0].upper()}{what[1:]}", f"`{value}`") for what, value in facts.get("provenance", {}).items()),
    ]
    return _make_section("The model", _table(["", ""], [[f"**{name}**", text] for name, text in rows if text]))


def _write_calibration(facts: ModelFacts, results: Results) -> str:
    keys = ("ece_before", "ece_after", "ece_if_calibrated", "loss_before", "loss_after")
    rows = [
        [title, *(format_score({**part, **part["calibration"]}[key]) for key in keys)]
        for name, result in results.items()
        for title, part in _list_subsets(name, result)
        if part["calibration"]
    ]
    changes = {name: result["calibration"] for name, result in results.items() if result["calibration"]}
    if not changes:
        return ""
    first = next(iter(changes.values()))
    by = (
        "one temperature for each fold"
        if first["temperature"] is None
        else f"the temperature {first['temperature']:.4f}"
    )
    return _make_section(
        "Calibration",
        f"Before they become probabilities, the logits are divided by {by}, fitted on {first['fitted_on']}. That "
        "changes how sure the model is, never what it predicts.",
        _table(
            ["Images of", "ECE before", "ECE after", "by chance", "Cross-entropy before", "Cross-entropy after"], rows
        ),
        "By chance: the ECE on as many images if the probabilities were right. An ECE no larger than that says nothing "
        "against the model.",
        *(
            f"{name}: these are the images that the temperature was fitted on, so the values after are too low. "
            "Believe those before, or those of images that it was not fitted on."
            for name, change in changes.items()
            if change["biased"]
        ),
        f"In use {facts['calibration']}." if "calibration" in facts else "",
        "The temperature is that of images like those it was fitted on. On others, from another place, the model can "
        "be surer than it is right.",
    )


def _write_ood_detection(facts: ModelFacts) -> str:
    if "doubt" not in facts:
        return ""
    return _make_section(
        "What it does not know",
        "Whatever picture it is given, a classifier names one of its classes. An image whose features lie farther from "
        "those of the training images than those of 99 % of the validation images therefore gets a warning beside its "
        f"class: {facts['doubt']}.",
        "The warning is for pictures of another kind. It does not tell a wrong answer from a right one, and an unknown "
        "disease, another sequence or a slice of another part of the head can pass unnoticed.",
    )


def _write_split(name: str, result: Mapping[str, Any], folder: pathlib.Path) -> str:
    clean = result["subsets"]["clean"]
    leaks = result["subsets"]["leaked"]["n"] > 0
    shown = clean if leaks else result
    pictures_of_clean = leaks and clean["n"] >= classification.FEW_IMAGES
    keys = ("precision", "f1", "specificity", "auc", "average_precision", *classification.SPECIFICITIES)
    rows = [
        [f"`{label}`", row["support"], format_score(row["recall"]), _format_recall_interval(shown, label)]
        + [format_score(row[key]) for key in keys]
        for label, row in shown["per_class"].items()
    ]
    header = ["Class", "Images", "Recall", "95 % interval", "Precision", "F1", "Specificity", "AUC", "PR-AUC"]
    header += [f"Recall at specificity {least:.2f}" for least in classification.SPECIFICITIES.values()]
    pictures = [
        f"![{picture.removesuffix('.png').replace('_', ' ')} of {name}]({_escape_link(name)}/{picture})"
        for picture in _PICTURES
        if (folder / name / picture).is_file()
    ]
    return _make_section(
        f"Class by class: {name}",
        f"**{result['caution']}**" if result["caution"] else "",
        f"Clean images only ({format_image_count(clean['n'])}):" if leaks else "",
        _table(header, rows),
        "The last two columns choose the threshold of each class with the same images: a little too good.",
        f"The pictures show {'these images' if pictures_of_clean else 'all ' + format_image_count(result['n'])}."
        if leaks and pictures
        else "",
        *pictures,
    )


def _format_recall_interval(result: Mapping[str, Any], label: str) -> str:
    if not (patients := result["patients"]) or not (support := result["per_class"][label]["support"]):
        return "-"
    if support < classification.FEW_OF_A_CLASS:
        return "too few images"
    return score_text.format_patient_interval(patients, patients["image_intervals"]["recall"][label])


def _write_training(facts: ModelFacts, folder: pathlib.Path) -> str:
    duration = facts.get("duration_s")
    sentences = [
        f"{facts['epochs']:g} epochs." if "epochs" in facts else "",
        f"The checkpoint of step {facts['best_step']:,} was kept." if "best_step" in facts else "",
        f"Seed {facts['seed']}." if "seed" in facts else "",
        f"It took {_duration(duration)}." if duration is not None else "",
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    return _make_section(
        "Training",
        " ".join(sentence for sentence in sentences if sentence),
        f"Augmentation: {facts['augmentation']}" if "augmentation" in facts else "",
        "\n".join(f"{number}. {stage}" for number, stage in enumerate(facts.get("stages", ()), start=1)),
        f"Versions: {versions}." if versions else "",
        "![training curves](training_curves.png)" if (folder / "training_curves.png").is_file() else "",
    )


def _write_limits(facts: ModelFacts, results: Results, *, synthetic: bool) -> str:
    classes = facts.get("classes") or next((list(result["per_class"]) for result in results.values()), [])
    kaggle_set = facts.get("kaggle_set", tuple(classes) == class_labels.BRAIN_TUMOR_CLASSES)
    points = limits.list_limits(synthetic=synthetic, kaggle_set=kaggle_set)
    return _make_section("Limits", "\n".join(f"- {point}" for point in points))


def _write_files(metrics: Mapping[str, Any], folder: pathlib.Path) -> str:
    rows = []
    if (folder / "training_curves.png").is_file():
        rows.append("- [training_curves.png](training_curves.png): losses, scores and learning rate of the run")
    for name in metrics:
        for file, meaning in (
            ("metrics.json", "every number above, for programs"),
            ("predictions.csv", "the probabilities of every image"),
            ("images.csv", "the patient of every image where known, and whether it is leaked"),
            ("classification_report.txt", "the tables as text"),
        ):
            if (folder / name / file).is_file():
                rows.append(f"- [{name}/{file}]({_escape_link(name)}/{file}): {meaning}")
    return _make_section("Files", "\n".join(rows))


def _make_section(heading: str, *paragraphs: str) -> str:
    body = [paragraph for paragraph in paragraphs if paragraph]
    return "\n\n".join([f"## {heading}", *body]) if body else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    # A pipe or a line break inside a cell would end it.
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---"] + ["--:" if len(header) > 2 else "---"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def _duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _escape_link(name: str) -> str:
    return name.replace(" ", "%20")
