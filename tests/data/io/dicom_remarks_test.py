"""Remarks on DICOM files by their tags; `dicom_test` reads them from files."""

import pytest

from bt_jax.data.io.dicom_remarks import describe_unusual_content


@pytest.mark.parametrize(
    ("modality", "part", "codes"),
    [
        ("MR", "BRAIN", []),
        ("", "", []),
        ("MR", " headneck ", []),
        (" ct ", "Skull", ["other_modality"]),
        ("US", "ABDOMEN", ["other_modality", "other_part"]),
        ("MR", "KNEE", ["other_part"]),
        ("A secret", "MR", ["other_part"]),
    ],
)
def test_what_is_said(modality, part, codes):
    found = describe_unusual_content(modality, part)
    assert [remark.code for remark in found] == codes
    assert "secret" not in " ".join(found)
