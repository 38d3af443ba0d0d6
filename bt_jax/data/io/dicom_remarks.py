"""What is odd about a DICOM file as a slice of a brain MRI, by the tags that say what it shows."""

from bt_jax.common.messages import Sentence

_MODALITIES = {
    "CT": Sentence("ct", "CT"),
    "CR": Sentence("x_ray", "an X-ray"),
    "DX": Sentence("x_ray", "an X-ray"),
    "XA": Sentence("angiography", "an X-ray angiography"),
    "RF": Sentence("fluoroscopy", "a fluoroscopy"),
    "MG": Sentence("mammography", "a mammography"),
    "US": Sentence("ultrasound", "an ultrasound"),
    "NM": Sentence("scintigraphy", "a scintigraphy"),
    "PT": Sentence("pet", "PET"),
    "OP": Sentence("eye", "a photograph of the eye"),
    "XC": Sentence("photograph", "a photograph"),
    "SM": Sentence("microscopy", "microscopy"),
    "ES": Sentence("endoscopy", "an endoscopy"),
}
_HEAD = ("BRAIN", "HEAD", "SKULL", "CRANI", "NEURO", "PITUIT", "SELLA", "CEREB")


def about(modality: str, part: str) -> tuple[str, ...]:
    """Remarks on the values of Modality and BodyPartExamined; nothing of their text gets into one."""
    found: list[str] = []
    kind = _MODALITIES.get(modality.strip().upper())
    if kind:
        text = "The file says that it is {modality}, not MRI: the model knows MRI alone."
        found.append(Sentence("other_modality", text, modality=kind))
    if part.strip() and not any(name in part.upper() for name in _HEAD):
        found.append(Sentence("other_part", "The file names another part of the body than the head."))
    return tuple(found)
