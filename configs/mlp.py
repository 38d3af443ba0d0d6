"""A dense network of few layers, trained from scratch: the first of two small models that were published together.

    python -m bt_jax.main --config=configs/mlp.py
    python -m bt_jax.main --config=configs/mlp.py:demo              # phantoms, a smaller network, 2 stages

Any field can be set on the command line: --config.model.hidden="(512,128)". Those that are not here are explained in
bt_jax/defaults.py.
"""

import ml_collections

from bt_jax.defaults import defaults, for_phantoms, from_scratch

VARIANTS = ("", "demo")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a variant: empty or `demo`."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/mlp.py has no variant {variant!r}: use :demo, or none")
    config = defaults()

    config.model = model = ml_collections.ConfigDict()
    model.name = "mlp"  # a dense network on the pixels
    model.weights = "none"  # none, or the workdir of a run
    model.fallback = ""  # of no use here
    model.hidden = (256, 64)  # sizes of the Dense-ReLU-Dropout blocks
    model.dropout = 0.3  # after each block
    model.channels = 1  # 1: grey; 3: three copies of it, as in an RGB file

    from_scratch(config)
    stages = config.stages
    stages.epochs = 60.0
    if variant == "demo":
        model.hidden, model.dropout = (128,), 0.1
        for_phantoms(config)
        config.augment.rotation = config.augment.contrast = 0.0
        config.preprocess.size = 48
        config.train.batch_size = 16
        stages.count, stages.head_epochs, stages.epochs = 2, 1.0, 12.0
        config.eval.every_epochs = 2.0
    return config
