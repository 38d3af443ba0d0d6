"""The folders of images that the tests of `data` use."""

from tests.data.conftest import folder, kaggle

__all__ = ["folder", "kaggle"]
