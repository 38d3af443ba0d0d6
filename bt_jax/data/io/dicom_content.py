"""What a DICOM file says it shows: remarks on everything that is no MRI of a head.

The remarks never contain text of the file.
"""

from collections.abc import Iterable

from bt_jax.common.messages import Message

_SECONDARY = Message("secondary_capture", "a secondary capture (a screenshot or a scanned film)")
_CT = Message("ct", "CT")
_X_RAY = Message("x_ray", "an X-ray")
_ANGIOGRAPHY = Message("angiography", "an X-ray angiography")
_FLUOROSCOPY = Message("fluoroscopy", "a fluoroscopy")
_MAMMOGRAPHY = Message("mammography", "a mammography")
_ULTRASOUND = Message("ultrasound", "an ultrasound")
_SCINTIGRAPHY = Message("scintigraphy", "a scintigraphy")
_PET = Message("pet", "PET")
_EYE = Message("eye", "a photograph of the eye")
_PHOTOGRAPH = Message("photograph", "a photograph")
_MICROSCOPY = Message("microscopy", "microscopy")
_ENDOSCOPY = Message("endoscopy", "an endoscopy")
_DOSE = Message("radiation_dose", "a radiation dose")
_RADIOTHERAPY = Message("radiotherapy_image", "an image of radiotherapy")
_SEGMENTATION = Message("segmentation", "a segmentation")
_PARAMETRIC_MAP = Message("parametric_map", "a parametric map")
_OTHER = Message("other_kind", "an object of another kind")

# Modalities that are MRI, or that leave it open.
_MRI = ("", "MR")
_MODALITIES = {
    "CT": _CT, "CR": _X_RAY, "DX": _X_RAY, "RG": _X_RAY, "IO": _X_RAY, "PX": _X_RAY, "XA": _ANGIOGRAPHY,
    "RF": _FLUOROSCOPY, "MG": _MAMMOGRAPHY, "US": _ULTRASOUND, "IVUS": _ULTRASOUND, "BDUS": _ULTRASOUND,
    "NM": _SCINTIGRAPHY, "ST": _SCINTIGRAPHY, "PT": _PET, "OP": _EYE, "OPT": _EYE, "OCT": _EYE, "XC": _PHOTOGRAPH,
    "SM": _MICROSCOPY, "GM": _MICROSCOPY, "ES": _ENDOSCOPY, "RTDOSE": _DOSE, "RTIMAGE": _RADIOTHERAPY,
    "SEG": _SEGMENTATION, "SC": _SECONDARY, "HC": _SECONDARY,
}  # fmt: skip

# The SOP classes of images by the ends of their UIDs; a longer one, as 66.4 after 66, belongs to the same
# kind unless it has an entry of its own.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_MRI_CLASS = "4"
_CLASSES = {
    "1": _X_RAY, "2": _CT, "3": _ULTRASOUND, "6": _ULTRASOUND, "5": _SCINTIGRAPHY, "20": _SCINTIGRAPHY,
    "7": _SECONDARY, "12": _ANGIOGRAPHY, "12.2": _FLUOROSCOPY, "13": _X_RAY, "1.2": _MAMMOGRAPHY,
    "13.1.3": _MAMMOGRAPHY, "14": _ULTRASOUND, "30": _PARAMETRIC_MAP, "66": _SEGMENTATION, "67": _PARAMETRIC_MAP,
    "77.1": _PHOTOGRAPH, "77.1.1": _ENDOSCOPY, "77.1.2": _MICROSCOPY, "77.1.3": _MICROSCOPY, "77.1.5": _EYE,
    "77.1.6": _MICROSCOPY, "128": _PET, "130": _PET, "481.1": _RADIOTHERAPY, "481.2": _DOSE,
}  # fmt: skip

# Values of ImageType by which scanners mark pictures of their own screen.
_SCREENS = ("SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "SCREENSAVE")
_HEAD = ("BRAIN", "HEAD", "SKULL", "CRANI", "NEURO", "PITUIT", "SELLA", "CEREB", "ORBIT")


def describe_unusual_content(
    modality: str, part: str, *, sop_class: str = "", image_type: Iterable[str] = ()
) -> tuple[str, ...]:
    """Returns remarks on what a file says it shows, unless that is an MRI of a head.

    Args:
      modality: value of Modality.
      part: value of BodyPartExamined.
      sop_class: value of SOPClassUID, which counts more than the modality: a screenshot of an MRI has modality MR.
      image_type: values of ImageType.
    """
    found: list[str] = []
    kind = _classify_by_class(sop_class) or _classify_by_modality(modality)
    if kind is None and any(value.strip().upper() in _SCREENS for value in image_type):
        kind = _SECONDARY
    if kind:
        text = "The file is marked as {modality}, not MRI: the model is trained on MRI only."
        found.append(Message("other_modality", text, modality=kind))
    if part.strip() and not any(name in part.upper() for name in _HEAD):
        found.append(Message("other_part", "The file is marked as showing another body part than the head."))
    return tuple(found)


def _classify_by_class(uid: str) -> Message | None:
    """Returns the kind of a SOP class, or None for MRI, no class and private classes."""
    uid = uid.strip().strip("\0")
    if not uid.startswith(_STORAGE):
        return None
    parts = uid.removeprefix(_STORAGE).split(".")
    if parts[0] == _MRI_CLASS:
        return None
    starts = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((_CLASSES[start] for start in starts if start in _CLASSES), _OTHER)


def _classify_by_modality(modality: str) -> Message | None:
    """Returns the kind of a modality, or None for MRI and no modality."""
    modality = modality.strip().strip("\0").upper()
    return None if modality in _MRI else _MODALITIES.get(modality, _OTHER)
