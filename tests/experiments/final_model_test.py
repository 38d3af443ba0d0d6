"""A final model from folds: what is trained in which order, and what ends it early. `release_test` runs the command."""

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.experiments import final_model
from tests import runs


@pytest.mark.parametrize(("stopped", "trained"), [("folds", ["folds"]), ("final", ["folds", "final"])])
def test_an_interrupted_run_ends_it_with_its_status(tmp_path, stopped, trained):
    seen = []

    def train(config, folder):
        seen.append((folder.name, config.data.folds, config.data.fold))
        return 143 if folder.name == stopped else 0

    config = runs.small_config(data__folds=4, data__fold=-1)
    out = tmp_path / "model.safetensors"
    assert final_model.release(config, tmp_path, out, accuracy=0.9, train=train, say=print) == 143
    assert seen == [("folds", 4, -1), ("final", 0, 0)][: len(trained)]
    assert not out.exists() and config.data.folds == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data__folds": 0}, r"config\.data\.folds is 0, so nothing would measure the final model"),
        ({"data__probe": "no_tumor:web"}, r"config\.data\.probe is 'no_tumor:web', but a final model trains on all"),
    ],
)
def test_what_a_final_model_cannot_be(tmp_path, fields, said):
    with pytest.raises(UsageError, match=said):
        final_model.release(
            runs.small_config(**fields), tmp_path, tmp_path / "m", accuracy=0.9, train=lambda *_: 0, say=print
        )
