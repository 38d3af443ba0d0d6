"""Brain MRI tumour classification in JAX/Flax. The interface for Python programs and notebooks:

    import bt_jax

    model = bt_jax.load()  # the model that ships; or bt_jax.load("runs/first")
    for record in model.predict(["scan.png", "series/"]):
        print(record.to_dict())
    picture = model.heat_map("scan.png").draw()  # [H, W, 3] uint8

It is a research tool, not a medical device.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from bt_jax.inference.model import Model

__all__ = ["load"]


def load(*models: str | os.PathLike[str], views: int = 1, batch_size: int = 32, engine: str = "auto") -> "Model":
    """Loads a trained model.

    Args:
      *models: workdirs of runs or cross-validations, or exported files; several are an ensemble. None: the model that
        ships with the package.
      views: views of each slice to average over, slightly rotated, shifted and mirrored; 1 to 64.
      batch_size: slices per step.
      engine: what runs an ONNX file: `onnxruntime`, `openvino`, or `auto` for the first that is installed.

    Raises:
      bt_jax.common.errors.UsageError: a path holds no model, or the models have different classes.
    """
    from bt_jax.inference.model import Model  # the import of JAX takes seconds

    return Model.load(*models, views=views, batch_size=batch_size, engine=engine)
