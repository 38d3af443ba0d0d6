"""What a DICOM file says it shows, and what is said about it."""

import pytest
from pydicom.uid import UID_dictionary

from bt_jax.data.io.dicom_content import describe_unusual_content
from tests import hostile_inputs, medical_files
from tests.data.io.dicom_test import one
from tests.medical_files import dicom

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GREY = hostile_inputs.scan()
SECONDARY = "a secondary capture (a screenshot or a scanned film)"
STORAGE = "1.2.840.10008.5.1.4.1.1."


def named(**tags: object) -> str:
    """The kind that a file is marked as, or an empty string."""
    warnings = [text for text in one(dicom(GREY, **tags)).warnings if "is marked as" in text]
    return warnings[0].removeprefix("The file is marked as ").partition(", not MRI")[0] if warnings else ""


@pytest.mark.parametrize(
    ("modality", "part", "codes"),
    [
        ("MR", "BRAIN", []),
        ("", "", []),
        ("MR", " headneck ", []),
        (" ct ", "Skull", ["other_modality"]),
        ("US", "ABDOMEN", ["other_modality", "other_part"]),
        ("MR", "KNEE", ["other_part"]),
        ("A secret", "MR", ["other_modality", "other_part"]),
    ],
)
def test_remarks_on_the_tags_repeat_none_of_their_text(modality, part, codes):
    found = describe_unusual_content(modality, part)
    assert [remark.code for remark in found] == codes
    assert "secret" not in " ".join(found)


@pytest.mark.parametrize(
    ("uid", "modality", "kind"),
    [
        ("4", "MR", ""),  # MR
        ("4.1", "MR", ""),  # enhanced MR
        ("4.4", "MR", ""),  # legacy converted enhanced MR
        ("481.2", "RTDOSE", "a radiation dose"),
        ("481.1", "RTIMAGE", "an image of radiotherapy"),
        ("66.4", "SEG", "a segmentation"),
        ("66.7", "SEG", "a segmentation"),
        ("30", "MR", "a parametric map"),
        ("2", "CT", "CT"),
        ("2.1", "CT", "CT"),
        ("6.1", "US", "an ultrasound"),
        ("3.1", "US", "an ultrasound"),
        ("7", "MR", SECONDARY),
        ("7.2", "MR", SECONDARY),
        ("7.4", "OT", SECONDARY),
        ("128", "PT", "PET"),
        ("20", "NM", "a scintigraphy"),
        ("1.1", "DX", "an X-ray"),
        ("1.2", "MG", "a mammography"),
        ("12.1.1", "XA", "an X-ray angiography"),
        ("77.1.5.1", "OP", "a photograph of the eye"),
        ("77.1.6", "SM", "microscopy"),
        ("9999", "MR", "an object of another kind"),
    ],
)
def test_the_class_of_an_object_counts_more_than_its_modality(uid, modality, kind):
    assert named(SOPClassUID=STORAGE + uid, Modality=modality) == kind


@pytest.mark.parametrize(
    ("modality", "kind"),
    [
        ("RTDOSE", "a radiation dose"),
        ("SEG", "a segmentation"),
        ("SC", SECONDARY),
        ("OT", "an object of another kind"),
        ("PT", "PET"),
        (None, ""),
    ],
)
def test_the_modality_counts_without_a_class_that_says_it(modality, kind):
    assert named(Modality=modality) == kind


def test_a_scanners_picture_of_its_screen_is_named():
    screen = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    assert named(ImageType=screen) == SECONDARY
    assert named(ImageType=["DERIVED", "SECONDARY", "MPR"]) == ""
    assert named(ImageType="ORIGINAL") == ""


def test_only_mri_of_all_classes_with_images_is_not_remarked_on():
    """The standard has more than a hundred classes of stored objects; each is MRI or has a remark."""
    classes = [uid for uid in UID_dictionary if uid.startswith(STORAGE)]
    assert len(classes) > 100
    silent = {uid for uid in classes if not describe_unusual_content("MR", "BRAIN", sop_class=uid)}
    assert silent == {uid for uid in classes if uid == STORAGE + "4" or uid.startswith(STORAGE + "4.")}


def test_no_text_of_the_tags_gets_out():
    said = one(dicom(GREY, Modality=medical_files.SECRET.upper(), ImageType=[medical_files.SECRET.upper()])).warnings
    assert medical_files.SECRET.lower() not in " ".join(said).lower()
