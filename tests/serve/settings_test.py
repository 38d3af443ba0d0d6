"""Limits of the server, and the part of them that applies to one file."""

import dataclasses

import pytest

from bt_jax.data.io.slices import Limits
from bt_jax.serve.settings import Settings


def test_the_limits_of_a_file():
    settings = Settings(request_bytes=100, files=3, pixels=200, slices=4, unpacked_bytes=500)
    assert settings.make_file_limits() == Limits(file_bytes=100, pixels=200, slices=4, unpacked_bytes=500)


def test_a_file_may_be_as_large_as_a_request_by_default():
    settings = Settings()
    assert settings.make_file_limits().file_bytes == settings.request_bytes == 64 * 2**20
    assert settings.hosts is None


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seconds = 1.0
