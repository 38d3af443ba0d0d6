"""What is odd about a DICOM file as a slice of a brain MRI, by the tags that say what it shows."""

from bt_jax.common.messages import Message

_MODALITIES = {
    "CT": Message("ct", "CT"),
    "CR": Message("x_ray", "an X-ray"),
    "DX": Message("x_ray", "an X-ray"),
    "XA": Message("angiography", "an X-ray angiography"),
    "RF": Message("fluoroscopy", "a fluoroscopy"),
    "MG": Message("mammography", "a mammography"),
    "US": Message("ultrasound", "an ultrasound"),
    "NM": Message("scintigraphy", "a scintigraphy"),
    "PT": Message("pet", "PET"),
    "OP": Message("eye", "a photograph of the eye"),
    "XC": Message("photograph", "a photograph"),
    "SM": Message("microscopy", "microscopy"),
    "ES": Message("endoscopy", "an endoscopy"),
}
_HEAD = ("BRAIN", "HEAD", "SKULL", "CRANI", "NEURO", "PITUIT", "SELLA", "CEREB")


def describe_unusual_content(modality: str, part: str) -> tuple[str, ...]:
    """Remarks on the values of Modality and BodyPartExamined; nothing of their text gets into one."""
    found: list[str] = []
    kind = _MODALITIES.get(modality.strip().upper())
    if kind:
        text = "The file says that it is {modality}, not MRI: the model knows MRI alone."
        found.append(Message("other_modality", text, modality=kind))
    if part.strip() and not any(name in part.upper() for name in _HEAD):
        found.append(Message("other_part", "The file names another part of the body than the head."))
    return tuple(found)
