"""EfficientNet-B1 fine-tuned in 30 stages, from the head down to the stem.

    python -m bt_jax.main --config=configs/effnet.py                # GPU or TPU
    python -m bt_jax.main --config=configs/effnet.py:cpu            # two CPU cores, a quarter of an hour a fold
    python -m bt_jax.main --config=configs/effnet.py:demo           # phantoms, small images, 5 stages: 2 minutes

Any field can be set on the command line: --config.train.batch_size=16. Those that are not here are explained in
bt_jax/defaults.py.
"""

import ml_collections

from bt_jax.defaults import defaults, for_phantoms

VARIANTS = ("", "demo", "cpu")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a variant: empty, `demo` or `cpu`."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/effnet.py has no variant {variant!r}: use :demo, :cpu, or none")
    config = defaults()

    config.model = model = ml_collections.ConfigDict()
    model.name = "efficientnet_b1"  # efficientnet_b0 .. b7, efficientnet_lite0 .. lite4, efficientnet_nano
    model.weights = "imagenet"  # imagenet, none, the workdir of a run, or a file: .h5, .weights.h5, .pth, .safetensors
    model.fallback = (
        "efficientnet_lite1"  # taken where there are no ImageNet weights for `name`; empty: that is an error
    )
    model.hidden = ()  # sizes of Dense-BatchNorm-ReLU-Dropout blocks in the head, of which the published system has
    # some, such as (256,); a head without holds up better on images from elsewhere: benchmarks/source_shift
    model.dropout = 0.5  # of the head
    model.batch_statistics = False  # backbone's BatchNorm in training: by the batch, or as its weights came

    config.augment.rotation = 0.06
    stages = config.stages
    if variant == "cpu":
        model.name = "efficientnet_lite1"
        config.train.batch_size = 32
        config.train.average_decay, config.train.cached_views = 0.99, 2
        config.schedule.warmup, config.schedule.decay = 0.0, "none"  # in stages of 18 steps they only waste steps
        stages.head_epochs, stages.epochs = 4.0, 0.26
        stages.learning_rate, stages.final_learning_rate = 6e-4, 6e-5
        stages.lowest_segment = "block_03"  # below it maps are four times as large
        config.eval.every_epochs, config.eval.batch_size = 2.0, 32
    if variant == "demo":
        model.name, model.hidden = "efficientnet_lite1", (64,)
        for_phantoms(config)
        config.preprocess.size = 96
        stages.count, stages.programs = 5, 1
        stages.head_epochs, stages.epochs = 4.0, 2.0
        stages.head_learning_rate, stages.learning_rate, stages.final_learning_rate = 3e-3, 2e-3, 1e-3
        stages.lowest_segment = "block_10"
        config.train.batch_size, config.train.average_decay, config.train.cached_views = 16, 0.95, 2
        config.eval.every_epochs, config.eval.batch_size = 2.0, 32
    return config
