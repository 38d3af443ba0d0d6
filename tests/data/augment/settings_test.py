"""What is refused, and that every operation is documented and off by default."""

import dataclasses
import inspect

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.settings import Augmentation

NAMES = [field.name for field in dataclasses.fields(Augmentation)]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"flip"}))
@pytest.mark.parametrize("value", [-0.1, 1e3, float("nan"), "much", True])
def test_absurd_values_are_named(name, value):
    with pytest.raises(UsageError, match=rf"augmentation\.{name} is"):
        Augmentation(**{name: value})


def test_flip_must_be_a_boolean():
    with pytest.raises(UsageError, match=r"augmentation\.flip"):
        Augmentation(flip=1)  # type: ignore[arg-type]


def test_every_field_is_documented_and_off_by_default():
    for field in dataclasses.fields(Augmentation):
        assert f"\n  {field.name}: " in inspect.cleandoc(Augmentation.__doc__ or "")
        assert not field.default
