"""The fields that all configurations share, with their defaults.

A file in `configs/` names a model, adds the options of that model, and changes what differs for it. The comment of a
field is its documentation: `docs/configuration.md` is made from these comments. A new field must be off by default, so
that a run which began without it can be resumed.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections


def make_defaults() -> ml_collections.ConfigDict:
    """Returns a new configuration without a model. Its stages are those of a pretrained network."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # seed of weights, order of images, augmentation, dropout and phantoms
    config.profile = ""  # START:STOP, such as 10:20: traces these steps (from 0) for XProf or TensorBoard; empty: off

    config.model = model = ml_collections.ConfigDict()
    model.name = ""  # name of the network; each configuration sets it
    model.weights = "none"  # initial weights: none (random), imagenet, hed (VGG16), the workdir of a run, or a file:
    # .h5, .weights.h5, .pth, .safetensors
    model.fallback = ""  # network to use if `name` has no ImageNet weights here; empty: that is an error

    config.data = data = ml_collections.ConfigDict()
    data.source = "auto"  # auto, folder (what `dir` names), or phantoms
    data.dir = ""  # folder, zip or prepared data set; with auto, empty means $BT_DATA, else data/brain_tumor_mri, else
    # the data set attached to a Kaggle notebook, else a download from Kaggle, else phantoms
    data.folds = 5  # number of folds in the split by patient; 0: all images train and none validates, for a final model
    # whose plan a cross-validation has proved; `bt_jax.release` trains both and calibrates one by the other
    data.fold = 0  # fold to validate on, from 0; -1 trains all folds one after the other
    data.probe = ""  # shift probe: images of a class that are kept from training and scored in report/source_probe, as
    # "CLASS:web" (no known patient), "CLASS:patient=PATTERN" or "CLASS:size=225x225", also with !=; empty: off
    data.balance = "none"  # source: in a class, each collection of images has the same weight in the loss; none: off
    data.max_unreadable = 10  # largest number of unreadable files to leave out with a warning; more are an error
    data.phantoms_per_class = (80, 20)  # number of phantoms per class in Training and Testing, if they are the source
    data.views = 0  # number of different augmentations of an image; 0 draws a new one in every epoch
    data.memory_gb = 4.0  # memory in GB for the images of a prepared data set; larger ones are read while training
    data.workers = 0  # processes that load batches; 0 loads in threads, which is better on few cores
    data.threads = 2  # threads that load batches, in each process

    config.preprocess = preprocess = ml_collections.ConfigDict()
    preprocess.form = "head"  # head: crop to the head, normalise intensities, pad to a square; stretch: resize only
    preprocess.size = 0  # side of the square in pixels in training; 0 is the size that the network is made for
    preprocess.lower_percentile = 1.0  # percentile of the intensities in the head that becomes black
    preprocess.upper_percentile = 99.0  # percentile of the intensities in the head that becomes white
    preprocess.margin = 0.02  # margin around the head, as a fraction of its longer side

    config.augment = augment = ml_collections.ConfigDict()
    augment.flip = True  # mirror every second image left to right; False: off
    augment.rotation = 0.2  # largest rotation either way, as a fraction of a full turn; 0 is off, here and below
    augment.zoom = 0.2  # scale by a factor in 1 - zoom .. 1 + zoom
    augment.shift = 0.05  # largest shift in each direction, as a fraction of the side
    augment.contrast = 0.2  # multiply the contrast by a factor in 1 - contrast .. 1 + contrast
    augment.brightness = 0.2  # largest change of brightness in either direction, as a fraction of the full range
    augment.gamma = 0.3  # raise intensities to an exponent in 1 / (1 + gamma) .. 1 + gamma
    augment.noise = 0.03  # largest standard deviation of Gaussian noise, as a fraction of the full range
    augment.blur = 1.0  # largest standard deviation of a Gaussian blur, in pixels
    augment.border = 0.1  # widest black border added, or crop, as a fraction of the side
    augment.crop = 0.0  # largest fraction of the side that is cut away; the rest, at a random place, fills the frame
    augment.aspect = 0.0  # multiply width over height by a factor in 1 / (1 + aspect) .. 1 + aspect
    augment.elastic = 0.0  # largest displacement of the points of a coarse grid, as a fraction of the side
    augment.bias_field = 0.0  # smooth field of brightness within 1 / (1 + bias_field) .. 1 + bias_field
    augment.sharpness = 0.0  # largest strength of an unsharp mask
    augment.resolution = 0.0  # largest share of the pixels along a side that is lost
    augment.curve = 0.0  # largest share of a random monotonic curve of intensities
    augment.cutout = 0.0  # largest sides of a grey rectangle, as fractions of the image's side; every second image

    config.loss = loss = ml_collections.ConfigDict()
    loss.class_weights = "balanced"  # none, balanced (as scikit-learn), or numbers in class order: "1,1,2,1"
    loss.label_smoothing = 0.1  # share of the target that is spread over all classes; 0 is off

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # adam or adamw
    optimizer.weight_decay = 0.01  # weight decay of kernels, for adamw; 0 is off
    optimizer.b1 = 0.9  # decay of the first moment
    optimizer.b2 = 0.999  # decay of the second moment
    optimizer.clip_norm = 1.0  # largest global norm of the gradient; 0 is off

    config.stages = stages = ml_collections.ConfigDict()
    stages.count = 30  # number of stages: stage 1 trains the head, each later one reaches deeper, to `lowest_segment`
    stages.head_epochs = 5.0  # length of stage 1 in epochs; 0: no stage trains the head alone
    stages.epochs = 2.0  # length of each later stage in epochs; fractions are allowed
    stages.head_learning_rate = 1e-3  # peak learning rate of stage 1
    stages.learning_rate = 3e-4  # peak learning rate of stage 2
    stages.final_learning_rate = 3e-5  # peak learning rate of the last stage; geometric in between
    stages.lowest_segment = ""  # lowest segment that trains, such as block_05; empty: all train in the end
    stages.programs = 4  # number of compiled programs that stages 2 and later share; 0: one for each depth; 1: one for
    # all, which stage 1 shares unless train.cached_views is set

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.warmup = 0.1  # share of a stage in which the learning rate rises; 0 is off
    schedule.decay = "cosine"  # decay of the learning rate in a stage: cosine or none
    schedule.final = 0.3  # share of its peak at which a stage's learning rate ends

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 64  # images in a step, over all devices
    train.accumulate = 1  # parts of a batch computed one after the other, for batches too large for memory; 1 is off
    train.dtype = "auto"  # of the computation: float32, bfloat16, float64 (to compare), auto (float32 on CPU, else
    # bfloat16)
    train.mixup = 0.0  # parameter of the Beta distribution by whose shares images are mixed in pairs; 0 is off
    train.mix_style = ()  # segments after which images exchange the statistics of their features in pairs (MixStyle),
    # such as ("stem", "block_03"); (): none
    train.average_decay = 0.999  # decay of the moving average of the weights, which is evaluated and kept; 0 is off
    train.log_every = 10  # steps between rows of metrics.jsonl
    train.slow_step = 30.0  # report a step that takes this many times as long as usual and over 30 s; 0 is off
    train.cached_views = 3  # augmentations of an image in stage 1, whose features are computed once; 0 is off
    train.cached_segment = ""  # cache features for later stages too that train nothing below this segment; empty: only
    # for the head
    train.cache_limit_gb = 2.0  # largest size in GB of cached features on disk; if exceeded, each epoch computes them

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.sharded = ""  # regular expression: the parameters of segments whose name it matches are divided among the
    # devices, with their moments and averages ("." is all, "block_1|top" some), which saves memory and costs
    # communication; empty: none
    mesh.sharded_from = 16384  # smallest number of values of an array that is divided

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every_epochs = 1.0  # epochs between evaluations on the validation fold; the end always has one
    evaluation.batch_size = 64  # images in an evaluation step
    evaluation.scale = 1.0  # validation and the finished model take images larger than those of training by this
    # factor, with a side that is a multiple of 16; 1: of the same size
    evaluation.mirrored = False  # the finished model answers with the mean over an image and its mirror image
    evaluation.examples = 0  # images of each class that the report shows with heat maps; 0 is off

    config.early_stopping = early_stopping = ml_collections.ConfigDict()
    early_stopping.patience = 10  # evaluations without a lower val/loss after which a stage ends; 0 is off

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 200  # steps between checkpoints, besides one at every evaluation; 0: only those

    return config


def use_phantoms(config: ml_collections.ConfigDict) -> None:
    """Sets the data of a demo: phantoms, with mild augmentation, since they do not vary as scanners do. Its report
    shows examples."""
    config.data.source, config.data.phantoms_per_class, config.data.folds = "phantoms", (280, 40), 10
    augment = config.augment
    augment.rotation, augment.zoom, augment.brightness, augment.border = 0.03, 0.1, 0.1, 0.0
    augment.gamma, augment.noise, augment.blur = 0.0, 0.0, 0.0
    config.eval.examples = 2


def suit_small_networks(config: ml_collections.ConfigDict) -> None:
    """Sets what suits small networks with random weights: one stage, mild augmentation, no label smoothing."""
    augment = config.augment
    augment.rotation, augment.zoom, augment.contrast, augment.brightness = 0.03, 0.1, 0.1, 0.1
    augment.gamma, augment.blur, augment.border = 0.1, 0.0, 0.0
    config.loss.label_smoothing = 0.0
    config.train.batch_size, config.train.average_decay, config.train.cached_views = 32, 0.99, 0
    config.schedule.final = 0.05
    stages = config.stages
    stages.count, stages.head_epochs, stages.programs = 1, 0.0, 1
    stages.learning_rate = stages.final_learning_rate = 1e-3


def get_model_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the model's constructor: all of `config.model` but its name and its weights."""
    renamed = {"dropout": "dropout_rate"}
    return {
        renamed.get(name, name): value for name, value in model.items() if name not in ("name", "weights", "fallback")
    }
