"""A shift probe: images of one class from one source, held out from training to measure the effect of domain shift.

A network may learn to recognise the source of an image instead of its content. The accuracy on images of a class from a
source that is absent from the training images of that class measures this.
"""

import dataclasses
import fnmatch
from collections.abc import Sequence

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels
from bt_jax.data.dataset import Dataset

SPLIT = "source_probe"  # name of these images in reports

_FORM = (
    "use CLASS:CUE=PATTERN or CLASS:CUE!=PATTERN where CUE is patient or size, such as 'glioma_tumor:patient=[0-9]*' "
    "or 'no_tumor:size!=225x225', or CLASS:web for images without a known patient"
)
_CUES = ("patient", "size")


@dataclasses.dataclass(frozen=True)
class Probe:
    """Which images of a class are held out from training.

    Attributes:
      text: the configured value.
      class_name: of the images.
      cue: `patient`, the patient's key (empty if unknown), or `size`, width x height of the decoded image.
      pattern: shell pattern for the cue (`*`, `?`, `[0-9]`).
      negated: selects the images whose cue does not match.
    """

    text: str
    class_name: str
    cue: str
    pattern: str
    negated: bool = False

    @classmethod
    def parse(cls, text: str, *, class_names: Sequence[str] | None) -> "Probe":
        """Parses `CLASS`, `CLASS:web`, `CLASS:CUE=PATTERN` or `CLASS:CUE!=PATTERN`; a class alone means `web`.

        Without `class_names`, which are unknown before the data is read, any class is accepted.

        Raises:
          UsageError: the message names the field and the valid values.
        """
        name, _, criterion = text.partition(":")
        if not name and class_names is None:
            raise UsageError(f"config.data.probe is {text!r}: {_FORM}")
        class_name = name if class_names is None or name in class_names else class_labels.canonicalise(name)
        if class_names is not None and class_name not in class_names:
            raise UsageError(f"config.data.probe is {text!r}: {name!r} is none of the classes {', '.join(class_names)}")
        if criterion in ("", "web"):
            return cls(text, class_name, cue="patient", pattern="")
        cue, sign, pattern = criterion.partition("=")
        if not sign or cue.removesuffix("!") not in _CUES:
            raise UsageError(f"config.data.probe is {text!r}: {_FORM}")
        return cls(text, class_name, cue=cue.removesuffix("!"), pattern=pattern, negated=cue.endswith("!"))

    @property
    def description(self) -> str:
        """A phrase for reports, such as `meningioma_tumor without a known patient`."""
        if self.cue == "patient" and not self.pattern:
            return f"{self.class_name} {'with' if self.negated else 'without'} a known patient"
        of = "whose patient's key" if self.cue == "patient" else "whose width x height"
        return f"{self.class_name} {of} {'is not' if self.negated else 'is'} {self.pattern}"

    def select_rows(self, dataset: Dataset, *, class_names: Sequence[str], patients: Sequence[str]) -> np.ndarray:
        """Selects the images of a data set that belong to the probe: [N] bool.

        Args:
          dataset: N images.
          class_names: by label.
          patients: [N] keys, empty if unknown.

        Raises:
          UsageError: no image of the class matches, or all of them do.
        """
        of_class = dataset.labels == class_names.index(self.class_name)
        cues = patients if self.cue == "patient" else [f"{width}x{height}" for width, height in dataset.sizes.tolist()]
        found = np.array([fnmatch.fnmatchcase(cue, self.pattern) for cue in cues], bool) ^ self.negated
        chosen = of_class & found
        if not chosen.any() or (chosen == of_class).all():
            there = sorted({cue or "(unknown)" for cue, its in zip(cues, of_class, strict=True) if its})
            some = ", ".join(there[:5]) + (f" and {len(there) - 5} others" if len(there) > 5 else "")
            raise UsageError(
                f"config.data.probe is {self.text!r}, but {'all' if chosen.any() else 'none'} of the {of_class.sum()} "
                f"images of {self.class_name} in Training match; values of {self.cue}: {some}; {_FORM}"
            )
        return chosen
