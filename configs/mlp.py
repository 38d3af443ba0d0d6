"""A small dense network, trained from random weights: the first of two models published together.

    python -m bt_jax.main --config=configs/mlp.py
    python -m bt_jax.main --config=configs/mlp.py:demo              # phantoms, 32 pixels, 2 stages: 75 seconds

The demo shows the stages of such a network, not a good classifier: weights that belong to single pixels do not
recognise a shape at another place, which is what distinguishes the phantoms' classes. It classifies some 60 % of the
testing phantoms, where chance is 25 %.

Any field can be set on the command line: --config.model.hidden="(512,128)". The other fields are in bt_jax/defaults.py.
"""

import ml_collections

from bt_jax.defaults import make_defaults, suit_small_networks, use_phantoms

VARIANTS = ("", "demo")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: empty or `demo`."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/mlp.py has no variant {variant!r}: use :demo, or none")
    config = make_defaults()

    model = config.model
    model.name = "mlp"
    model.hidden = (256, 64)  # sizes of the Dense-ReLU-Dropout blocks
    model.dropout = 0.3  # dropout rate after each block
    model.channels = 1  # channels of the input: 1 is grey, 3 is three copies of it, as in an RGB file

    suit_small_networks(config)
    stages = config.stages
    stages.epochs = 60.0
    if variant == "demo":
        model.dropout = 0.1
        use_phantoms(config)
        config.augment.rotation = config.augment.contrast = 0.0
        config.augment.zoom, config.augment.shift = 0.05, 0.03  # such a network learns from places
        config.preprocess.size = 32
        config.train.batch_size = 16
        stages.count, stages.head_epochs, stages.epochs = 2, 5.0, 80.0
        stages.head_learning_rate = 1e-2
        config.eval.every_epochs = 5.0
    return config
