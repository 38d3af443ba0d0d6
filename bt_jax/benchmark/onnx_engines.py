"""The engines for ONNX files: the network of a workload in a file, run as `--model` would be."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bt_jax.benchmark.peers import turns
from bt_jax.benchmark.step_throughput import CLASSES, Workload
from bt_jax.common.errors import UsageError
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import onnx_engine, onnx_graph, onnx_model
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.model_header import ModelHeader
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.models.normalise import LITE

# The names of the peers that run the same file by themselves.
PEERS: Mapping[str, str] = {onnx_engine.ONNX_RUNTIME: "ONNX Runtime", onnx_engine.OPENVINO: "OpenVINO"}


class Engine(NamedTuple):
    """An engine that is ready to be measured.

    Attributes:
      peer: the name of the peer that runs the same file with it.
      version: its name and version.
      turn: measures one turn and returns the seconds per batch.
    """

    peer: str
    version: str
    turn: Callable[[], float]


class Engines(NamedTuple):
    """The engines for the ONNX file of a workload.

    Attributes:
      file: None if it could not be written.
      ready: engines by their names in a report.
      missing: for each other engine why it is missing.
    """

    file: pathlib.Path | None
    ready: Mapping[str, Engine]
    missing: Mapping[str, str]


def prepare(workload: Workload, folder: pathlib.Path) -> Engines:
    """Writes the network of a workload to an ONNX file in a folder, and loads it with each engine."""
    names = {engine: f"bt_jax, {peer}" for engine, peer in PEERS.items()}
    path = folder / "model.onnx"
    try:
        write_file(workload, path)
    except UsageError as error:
        return Engines(None, {}, dict.fromkeys(names.values(), str(error)))
    ready, missing = dict[str, Engine](), dict[str, str]()
    images = workload.make_images()
    for engine, name in names.items():
        try:
            model = onnx_model.load(path, batch_size=workload.batch, engine=engine)
        except UsageError as error:
            missing[name] = str(error)
            continue
        run = functools.partial(model.compute, images)
        for _ in range(turns.WARM_UP):
            run()
        ready[name] = Engine(PEERS[engine], model.engine, turns.make_turn(turns.Step(run)))
    return Engines(path, ready, missing)


def write_file(workload: Workload, path: pathlib.Path) -> None:
    """Writes the network of a workload, with random weights, to an ONNX file.

    Raises:
      UsageError: the package onnx is missing, or ONNX has no form of a segment.
    """
    _, params, batch_stats = workload.create_network()
    description = ModelDescription(
        name=workload.model,
        options={**workload.options},
        class_names=tuple(f"class_{number}" for number in range(CLASSES)),
        preprocessing=Preprocessing(size=workload.size).to_dict(),
        normalisation=dataclasses.asdict(LITE),
        weights="random",
        weights_sha256=None,
        synthetic=True,
    )
    header = ModelHeader(description=dataclasses.asdict(description), temperature=None, ood_models=())
    member = TrainedNetwork(description, params, batch_stats)
    path.write_bytes(onnx_graph.build([member], size=workload.size, header=header))
