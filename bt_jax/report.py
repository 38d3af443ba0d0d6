"""What is written for people about a scored split and about a model: tables, pictures and the model card."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from bt_jax import files, plots
from bt_jax import labels as class_labels
from bt_jax import metrics as scores

_PICTURES = ("confusion_matrix.png", "roc_curves.png", "calibration.png")


class ModelFacts(TypedDict, total=False):
    """What a model card says beside the metrics. Every key may be absent; then the card is silent about it.

    Attributes:
      title: heading of the card, such as the name of the run.
      model: architecture, with input size.
      parameters: number of parameters.
      weights: what training started from, and where that came from.
      data_source: where the images came from, with version, licence or hash.
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
      seed: of the random numbers.
      versions: of the libraries, by name.
      duration_s: seconds from start to end, training and evaluation together.
    """

    title: str
    model: str
    parameters: int
    weights: str
    data_source: str
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
    seed: int
    versions: Mapping[str, str]
    duration_s: float


def write_split_report(
    directory: files.Path,
    *,
    split: str,
    paths: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    leaked: np.ndarray | None = None,
    notice: str | None = None,
) -> dict[str, Any]:
    """Scores a split and writes everything about it into one folder.

    The files are `metrics.json`, `predictions.csv`, `classification_report.txt`, `confusion_matrix.png`,
    `roc_curves.png` and `calibration.png`; each is replaced atomically. A split without images gets them too.

    Args:
      directory: the folder, made where it is missing.
      split: name of the split.
      paths: N paths relative to the data folder.
      labels: [N] integers, the true classes.
      probabilities: [N, C] floats that sum to 1 along each row.
      class_names: C names in the order of the columns.
      leaked: [N] bool, True for an image with a twin among those of training or validation. None: no image has one.
      notice: a warning that every picture and the text repeat, such as that the images are synthetic.

    Returns:
      The content of `metrics.json`, see `metrics.score`.

    Raises:
      ValueError: arguments that do not fit each other, see `metrics.score`.
    """
    directory = pathlib.Path(directory)
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths for {len(labels)} labels")
    result = scores.score(
        split=split, labels=labels, probabilities=probabilities, class_names=class_names, leaked=leaked
    )
    files.write_json(directory / "metrics.json", result)
    predictions = probabilities.argmax(axis=1)
    rows = (
        # Nine digits tell any two float32 apart.
        [path, class_names[label], class_names[prediction], *(f"{p:.9g}" for p in row)]
        for path, label, prediction, row in zip(paths, labels, predictions, probabilities, strict=True)
    )
    files.write_csv(directory / "predictions.csv", ["path", "label", "prediction", *class_names], rows)
    text = scores.classification_report(result)
    files.write_text(directory / "classification_report.txt", f"{notice}\n\n{text}" if notice else text)

    where = f"{split}, {_images(result['n'])}"
    accuracy = (
        ""
        if result["accuracy"] is None
        else f"\naccuracy {_number(result['accuracy'])} (95 % interval {_interval(result)})"
    )
    plots.confusion_matrix(
        directory / "confusion_matrix.png",
        metrics=result,
        class_names=class_names,
        title=f"Confusion matrix - {where}{accuracy}",
        notice=notice,
    )
    plots.roc_curves(
        directory / "roc_curves.png",
        labels=labels,
        probabilities=probabilities,
        class_names=class_names,
        title=f"ROC curves, each class against the others - {where}",
        notice=notice,
    )
    plots.calibration(
        directory / "calibration.png",
        labels=labels,
        probabilities=probabilities,
        title=f"Calibration - {where}",
        notice=notice,
    )
    return result


def write_model_card(
    path: files.Path, *, facts: ModelFacts, metrics: Mapping[str, Mapping[str, Any]], notice: str | None = None
) -> None:
    """Writes the model card in Markdown. Pictures that already lie beside it are shown in it.

    Args:
      path: of the card. The report of a split is looked for in a folder beside it that bears the split's name.
      facts: what is known about the model.
      metrics: the results of `write_split_report` by name of the split.
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
        _facts(facts),
        _results(metrics),
        *(_split(name, result, path.parent) for name, result in metrics.items()),
        _training(facts, path.parent),
        _limits(facts, metrics, synthetic=facts.get("synthetic", notice is not None)),
        _files(metrics, path.parent),
    ]
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _facts(facts: ModelFacts) -> str:
    rows = [
        ("Model", facts.get("model")),
        ("Parameters", f"{facts['parameters']:,}" if "parameters" in facts else None),
        ("Starting weights", facts.get("weights")),
        ("Data", facts.get("data_source")),
        ("Images", ", ".join(f"{name} {count:,}" for name, count in facts.get("images", {}).items())),
        ("Classes", ", ".join(f"`{name}`" for name in facts.get("classes", ()))),
        ("Split", facts.get("split")),
        ("Preprocessing", facts.get("preprocessing")),
    ]
    return _section("The model", _table(["", ""], [[f"**{name}**", text] for name, text in rows if text]))


def _results(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    rows, leaks = [], False
    for name, result in metrics.items():
        subsets = result["subsets"]
        named = [(name, result)]
        if subsets["leaked"]["n"]:
            leaks = True
            named = [
                (f"**{name}, clean images**", subsets["clean"]),
                (f"{name}, leaked images", subsets["leaked"]),
                (f"{name}, all images", result),
            ]
        rows += [
            [title, part["n"], _number(part["accuracy"]), _interval(part)]
            + [_number(part[key]) for key in ("macro_f1", "macro_auc", "ece")]
            for title, part in named
        ]
    header = ["Images of", "Number", "Accuracy", "95 % interval", "Macro F1", "Macro AUC", "ECE"]
    notes = [
        "The interval is a bootstrap over images. Where several images come from one patient they err together, and "
        "the true uncertainty is larger. Macro averages weigh the classes that have images alike. ECE is the expected "
        "calibration error: how far confidence and accuracy lie apart on average."
    ]
    if leaks:
        notes.insert(
            0,
            "Judge the model by the clean images. A leaked image has a twin among those the model was trained or "
            "chosen on, so a model that merely remembers gets it right.",
        )
    return _section("Results", _table(header, rows), *notes)


def _split(name: str, result: Mapping[str, Any], folder: pathlib.Path) -> str:
    clean = result["subsets"]["clean"]
    leaks = result["subsets"]["leaked"]["n"] > 0
    shown = clean if leaks else result
    keys = ("precision", "recall", "f1", "specificity", "auc")
    rows = [
        [f"`{label}`", *(_number(row[key]) for key in keys), row["support"]]
        for label, row in shown["per_class"].items()
    ]
    pictures = [
        f"![{picture.removesuffix('.png').replace('_', ' ')} of {name}]({_link(name)}/{picture})"
        for picture in _PICTURES
        if (folder / name / picture).is_file()
    ]
    caption = f"Clean images only ({_images(clean['n'])}):" if leaks else ""
    about_pictures = f"The pictures show all {_images(result['n'])}." if leaks and pictures else ""
    table = _table(["Class", "Precision", "Recall", "F1", "Specificity", "AUC", "Images"], rows)
    return _section(f"Class by class: {name}", caption, table, about_pictures, *pictures)


def _training(facts: ModelFacts, folder: pathlib.Path) -> str:
    duration = facts.get("duration_s")
    sentences = [
        f"{facts['epochs']:g} epochs." if "epochs" in facts else "",
        f"The checkpoint of step {facts['best_step']:,} was kept." if "best_step" in facts else "",
        f"Seed {facts['seed']}." if "seed" in facts else "",
        f"It took {_duration(duration)}." if duration is not None else "",
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    return _section(
        "Training",
        " ".join(sentence for sentence in sentences if sentence),
        f"Augmentation: {facts['augmentation']}" if "augmentation" in facts else "",
        "\n".join(f"{number}. {stage}" for number, stage in enumerate(facts.get("stages", ()), start=1)),
        f"Versions: {versions}." if versions else "",
        "![training curves](training_curves.png)" if (folder / "training_curves.png").is_file() else "",
    )


def _limits(facts: ModelFacts, metrics: Mapping[str, Mapping[str, Any]], *, synthetic: bool) -> str:
    classes = facts.get("classes") or next((list(result["per_class"]) for result in metrics.values()), [])
    points = [
        "It sees one slice at a time and knows only the classes above. Whatever an image shows, it names one of them.",
        "A high probability is no guarantee, least of all for images from scanners, sequences or clinics unlike those "
        "of the training images.",
    ]
    if synthetic:
        points.insert(0, "The images are synthetic. The numbers show that the software works, nothing about patients.")
    elif facts.get("kaggle_set", tuple(classes) == class_labels.BRAIN_TUMOR_CLASSES):
        points += _KAGGLE_LIMITS
    return _section("Limits", "\n".join(f"- {point}" for point in points))


# Measured on the Kaggle set "Brain Tumor Classification (MRI)".
_KAGGLE_LIMITS = (
    "The source of an image nearly gives its class away. All gliomas of the Training folder are dim, contrast-enhanced "
    "slices of one collection with a wide black border; the tumour-free images come from the web, 99 % of them in "
    "other sizes. A model can score well by telling collections apart, and then fail on images from a new place. The "
    "gliomas of the Testing folder look different: bright, tightly cropped, of several sequences, some of them CT.",
    "The published Training and Testing folders overlap: 251 of the 394 Testing images (64 %) equal a Training image "
    "pixel by pixel, among them every one without a tumour. Comparing pixels alone, with nothing learnt, reaches 78 % "
    "on that folder. So nothing clean is left there to measure how well healthy images are recognised.",
    "Most Training images are neighbouring slices of 225 patients. A validation split that separates images and not "
    "patients is too optimistic by far: check above how the split of this model was made.",
    "Some labels are doubtful: 14 images filed as pituitary tumours are meningiomas in the collection they came from, "
    "and at least 5 Testing gliomas are Training meningiomas.",
)


def _files(metrics: Mapping[str, Any], folder: pathlib.Path) -> str:
    rows = []
    if (folder / "training_curves.png").is_file():
        rows.append("- [training_curves.png](training_curves.png): losses, scores and learning rate of the run")
    for name in metrics:
        for file, meaning in (
            ("metrics.json", "every number above, for programs"),
            ("predictions.csv", "the probabilities of every image"),
            ("classification_report.txt", "the tables as text"),
        ):
            if (folder / name / file).is_file():
                rows.append(f"- [{name}/{file}]({_link(name)}/{file}): {meaning}")
    return _section("Files", "\n".join(rows))


def _section(heading: str, *paragraphs: str) -> str:
    body = [paragraph for paragraph in paragraphs if paragraph]
    return "\n\n".join([f"## {heading}", *body]) if body else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    # A pipe or a line break inside a cell would end it.
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---"] + ["--:" if len(header) > 2 else "---"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    return "-" if low is None else f"{low:.3f} to {high:.3f}"


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def _duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _link(name: str) -> str:
    return name.replace(" ", "%20")
