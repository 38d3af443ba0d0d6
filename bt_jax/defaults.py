"""The fields that all configurations share: data, augmentation, loss, optimiser, stages, and how a run goes.

A file in `configs/` adds `config.model`, and sets what is different for it.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections


def defaults() -> ml_collections.ConfigDict:
    """A fresh configuration without model. Its plan is that of thirty stages for a pretrained network."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of weights, order, augmentation, dropout and phantoms
    config.profile = ""  # START:STOP, such as 10:20: a trace of these steps, from 0 on, for XProf or TensorBoard

    config.data = data = ml_collections.ConfigDict()
    data.source = "auto"  # auto, folder (what `dir` names), or phantoms
    data.dir = ""  # folder, zip or prepared set; empty with auto: $BT_DATA, data/brain_tumor_mri, a Kaggle download
    data.folds = 5  # folds of the split by patient
    data.fold = 0  # the fold to validate on; -1 trains all folds one after the other
    data.probe = ""  # images kept from training, to see if a class is known elsewhere: "CLASS:web" (without a known
    # patient), "CLASS:patient=PATTERN", "CLASS:size=225x225", each also with !=; scored in report/source_probe
    data.balance = "none"  # none, or source: within a class the collections of images count alike in the loss
    data.max_unreadable = 10  # files left out, with a warning, because they are not readable images; more is an error
    data.phantoms_per_class = (80, 20)  # phantoms in Training and Testing, where they are the source
    data.views = 0  # different augmentations of an image; 0 draws a new one in every epoch
    data.memory_gb = 4.0  # for preprocessed images of a prepared set; one that needs more is read while it trains
    data.workers = 0  # processes that load batches; 0 loads in threads, the better choice on few cores
    data.threads = 2  # threads that load batches (in each process)

    config.preprocess = preprocess = ml_collections.ConfigDict()
    preprocess.form = "head"  # head: crop to the head, normalise by percentiles, pad to a square; or stretch
    preprocess.size = 0  # side of the square in pixels; 0 is the model's native size
    preprocess.lower_percentile = 1.0  # intensity inside the head that becomes black
    preprocess.upper_percentile = 99.0  # intensity inside the head that becomes white
    preprocess.margin = 0.02  # kept around the head, as a fraction of its longer side

    config.augment = augment = ml_collections.ConfigDict()
    augment.flip = True  # mirror left and right, every second image
    augment.rotation = 0.2  # up to this fraction of a full turn, both ways
    augment.zoom = 0.2  # scale by 1 - zoom .. 1 + zoom
    augment.shift = 0.05  # up to this fraction of the side, both ways and directions
    augment.contrast = 0.2  # contrast times 1 - contrast .. 1 + contrast
    augment.brightness = 0.2  # up to this fraction of the full range, added or taken away
    augment.gamma = 0.3  # intensities to the power of 1 / (1 + gamma) .. 1 + gamma
    augment.noise = 0.03  # largest standard deviation of Gaussian noise, as a fraction of the full range
    augment.blur = 1.0  # largest standard deviation of a Gaussian blur, in pixels
    augment.border = 0.1  # largest extra black border, or crop, as a fraction of the side
    augment.crop = 0.0  # largest fraction of the side that is cut away; what is kept, anywhere, fills the frame
    augment.aspect = 0.0  # width over height times 1 / (1 + aspect) .. 1 + aspect
    augment.elastic = 0.0  # farthest that points of a coarse grid move, as a fraction of the side
    augment.fourier = 0.0  # largest share of coarse amplitudes of an image from another source; every second image
    augment.histogram = 0.0  # largest share of grey values spread as in an image from another source; every second one
    augment.network = 0.0  # largest share of what a small random network makes; every second image
    augment.convolution = 0.0  # largest share of what a small random kernel makes; every second image
    augment.bias_field = 0.0  # uneven brightness within 1 / (1 + bias_field) .. 1 + bias_field
    augment.sharpness = 0.0  # largest strength of an unsharp mask
    augment.resolution = 0.0  # largest share of the side's pixels that get lost
    augment.jpeg = 0.0  # JPEG down to a quality of 95 - 90 jpeg; every second image
    augment.curve = 0.0  # largest share of a random curve of intensities that never falls
    augment.cutout = 0.0  # largest sides of a grey rectangle, as fractions of the image's; every second image

    config.loss = loss = ml_collections.ConfigDict()
    loss.class_weights = "balanced"  # none, balanced (as scikit-learn), or numbers in class order: "1,1,2,1"
    loss.label_smoothing = 0.1  # share of the target spread over all classes

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # adam or adamw
    optimizer.weight_decay = 0.01  # of kernels, for adamw
    optimizer.b1 = 0.9  # decay of the first moment
    optimizer.b2 = 0.999  # decay of the second moment
    optimizer.clip_norm = 1.0  # largest global norm of the gradient; 0 is off

    config.stages = stages = ml_collections.ConfigDict()
    stages.count = 30  # stage 1 trains the head; the others reach from the top down to `lowest_segment`, evenly
    stages.head_epochs = 5.0  # length of stage 1; 0: there is no stage for the head alone
    stages.epochs = 2.0  # length of each later stage; fractions are allowed
    stages.head_learning_rate = 1e-3  # peak rate of stage 1
    stages.learning_rate = 3e-4  # peak rate of stage 2
    stages.final_learning_rate = 3e-5  # peak rate of the last stage; geometric in between
    stages.lowest_segment = ""  # segments below never train, such as block_05; empty: all train in the end
    stages.programs = 4  # compiled programs shared by stages 2 and up; 0: one for each depth

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.warmup = 0.1  # share of a stage in which the rate rises
    schedule.decay = "cosine"  # inside a stage: cosine or none
    schedule.final = 0.3  # share of its peak that a stage's rate ends at

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 64  # images in a step, over all devices
    train.accumulate = 1  # parts of a batch that follow one another in a step, for batches beyond the memory
    train.dtype = "auto"  # of the computation: float32, bfloat16, auto (float32 on a CPU), or float64, to compare
    train.mixup = 0.0  # images mixed in pairs by shares of a Beta distribution with this parameter; 0 is off
    train.average_decay = 0.999  # moving average of the weights, which is evaluated and kept; 0 is off
    train.log_every = 10  # steps between rows of metrics.jsonl
    train.slow_step = 30.0  # a step that takes so many times the usual (and half a minute) is reported; 0 is off
    train.cached_views = 3  # fixed augmentations of an image in stage 1, whose features are computed once; 0 is off
    train.cached_segment = ""  # caches for deeper stages too, if they train nothing below this segment; empty: the head
    train.cache_limit_gb = 2.0  # features kept on disk; stages that need more compute them in every epoch

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.sharded = ""  # parameters whose path has this regular expression are divided among the devices, with their
    # moments and averages: "." is all, "block_1|top" some, empty none; saves memory, costs messages
    mesh.sharded_from = 16384  # values that an array must have to be divided

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every_epochs = 1.0  # between evaluations on the validation fold; always at the end too
    evaluation.batch_size = 64  # images in an evaluation step

    config.early_stopping = early_stopping = ml_collections.ConfigDict()
    early_stopping.patience = 10  # evaluations without a lower val/loss that end a stage; 0 is off

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 200  # between checkpoints, besides the one at every evaluation; 0: only those

    return config


def for_phantoms(config: ml_collections.ConfigDict) -> None:
    """Sets a demo's data: phantoms, which have no spread of scanners that augmentation should make up for."""
    config.data.source, config.data.phantoms_per_class = "phantoms", (160, 40)
    augment = config.augment
    augment.rotation, augment.zoom, augment.brightness, augment.border = 0.03, 0.1, 0.1, 0.0
    augment.gamma, augment.noise, augment.blur = 0.0, 0.0, 0.0


def from_scratch(config: ml_collections.ConfigDict) -> None:
    """Sets what suits small networks that start from random weights: one stage, milder augmentation, hard targets."""
    augment = config.augment
    augment.rotation, augment.zoom, augment.contrast, augment.brightness = 0.03, 0.1, 0.1, 0.1
    augment.gamma, augment.blur, augment.border = 0.1, 0.0, 0.0
    config.loss.label_smoothing = 0.0
    config.train.batch_size, config.train.average_decay, config.train.cached_views = 32, 0.99, 0
    config.schedule.final = 0.05
    stages = config.stages
    stages.count, stages.head_epochs, stages.programs = 1, 0.0, 1
    stages.learning_rate = stages.final_learning_rate = 1e-3


def constructor_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the model's constructor: all of `config.model` but its name and its weights."""
    renamed = {"dropout": "dropout_rate"}
    return {
        renamed.get(name, name): value for name, value in model.items() if name not in ("name", "weights", "fallback")
    }
