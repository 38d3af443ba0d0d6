"""A model of keras.applications on TensorFlow, float32 on the CPU, in a compiled graph.

Option: `running_statistics` trains with BatchNorm as in inference; its scale and bias are still trained.
"""

import os
from typing import Any

import turns


def build(mode: str, batch: int, size: int, model: str, *options: str) -> turns.Step:
    """Builds a step of AdamW or a forward pass."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    if "running_statistics" in options:
        # With `trainable = False` Keras would skip the gradients of scale and bias.
        norm = keras.layers.BatchNormalization
        plain = norm.call

        def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            del training
            return plain(self, inputs, training=False, mask=mask)

        norm.call = call
    network = getattr(keras.applications, model)(
        weights=None, classes=4, input_shape=(size, size, 3), classifier_activation=None
    )
    images = tf.random.uniform((batch, size, size, 3), maxval=255.0)  # these models normalise their input
    labels = tf.one_hot(tf.range(batch) % 4, 4)
    if mode == "infer":
        forward = tf.function(lambda x: network(x, training=False))
        return turns.Step(lambda: forward(images).numpy())
    network.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-4, weight_decay=0.01),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        jit_compile=False,  # XLA on a CPU runs depthwise convolutions as scalar loops
    )
    return turns.Step(lambda: network.train_on_batch(images, labels))


if __name__ == "__main__":
    turns.serve(build, packages=("keras", "tensorflow"))
