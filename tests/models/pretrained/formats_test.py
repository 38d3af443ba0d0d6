import numpy as np
import pytest

from bt_jax.models import registry
from bt_jax.models.pretrained import efficientnet_names, formats, vgg_names


@pytest.mark.parametrize("model", registry.ARCHITECTURES)
def test_every_model_has_the_formats_of_its_family(model: str) -> None:
    families = {"efficientnet": efficientnet_names.FORMATS, "vgg16": vgg_names.FORMATS}
    expected = next((found for family, found in families.items() if model.startswith(family)), ())
    assert formats.get_formats(model) == expected
    assert formats.describe(model) == ", ".join(form.name for form in expected)


def test_a_file_is_told_only_for_its_family() -> None:
    for form in formats.FORMATS:
        tensors = {form.marker: np.zeros(1)}
        model = "vgg16" if form.family == "vgg16" else "efficientnet_b0"
        assert formats.detect(tensors, model) is form
        assert formats.detect(tensors, "efficientnet_b0" if model == "vgg16" else "vgg16") is None
        assert formats.detect(tensors, "mlp") is None


def test_markers_are_unique() -> None:
    assert len({form.marker for form in formats.FORMATS}) == len(formats.FORMATS)
