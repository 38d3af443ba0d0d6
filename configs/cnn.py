"""A small convolutional network, trained from random weights: the second of two models published together.

    python -m bt_jax.main --config=configs/cnn.py
    python -m bt_jax.main --config=configs/cnn.py:demo              # phantoms, a smaller network, 2 stages: 2.5 minutes

The demo classifies some 93 % of the testing phantoms.

Any field can be set on the command line: --config.model.filters="(32,64,128)".
The other fields are in bt_jax/defaults.py.
"""

import ml_collections

from bt_jax.defaults import make_defaults, suit_small_networks, use_phantoms

VARIANTS = ("", "demo")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: empty or `demo`."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/cnn.py has no variant {variant!r}: use :demo, or none")
    config = make_defaults()

    model = config.model
    model.name = "cnn"
    model.filters = (16, 32, 64, 128)  # filters of each block: 3x3 convolution, ReLU, 2x2 max pooling, dropout
    model.hidden = (128,)  # sizes of the Dense-ReLU-Dropout blocks after the convolutions
    model.dropout = 0.3  # dropout rate after each block
    model.channels = 1  # channels of the input: 1 is grey, 3 is three copies of it, as in an RGB file

    suit_small_networks(config)
    stages = config.stages
    stages.epochs = 40.0
    if variant == "demo":
        model.filters, model.hidden, model.dropout = (16, 32, 64, 64), (64,), 0.05
        use_phantoms(config)
        config.augment.rotation = config.augment.contrast = 0.0
        config.preprocess.size = 64
        config.train.batch_size = 16
        stages.count, stages.head_epochs, stages.epochs = 2, 2.0, 22.0
        stages.head_learning_rate = 1e-2
        stages.learning_rate = stages.final_learning_rate = 3e-3
        config.eval.every_epochs = 2.0
    return config
