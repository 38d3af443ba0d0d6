"""Measures requests per second and latency of `bt_jax.serve`, relative to inference without a server.

    python benchmarks/serve_load.py --model=runs/first --data=DIR --json=benchmarks/serve_load.json
    python benchmarks/serve_load.py --model=runs/first --minutes=5

The ceiling is `inference.stream` on the same files: threads decode ahead, and the model computes full batches. It is
measured before and after. In between, the script starts a server. Clients in this process send requests over loopback,
with one image each, and send the next one as soon as the last is answered. `--minutes` continues with the largest
number of clients and records the memory of the server. Without `--data` the images are phantoms.
"""

import argparse
import asyncio
import collections
import datetime
import json
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bt_jax.benchmark import machine
from bt_jax.common import cli, files
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.io.decode import IMAGE_SUFFIXES, encode_png
from bt_jax.data.phantoms import phantom
from bt_jax.inference import stream
from bt_jax.inference.inputs import Input
from bt_jax.inference.predictor import Predictor

_BOUNDARY = "load-test"
_TIMEOUT = 120.0


def read_images(folder: str, count: int) -> list[bytes]:
    """Reads image files spread evenly over a folder, or draws phantoms."""
    if not folder:
        return [
            encode_png(phantom.render(number, label=BRAIN_TUMOR_CLASSES[number % 4], seed=0).image)
            for number in range(count)
        ]
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [paths[place].read_bytes() for place in np.linspace(0, len(paths) - 1, count).astype(int)]


def measure_ceiling(predictor: Predictor, contents: list[bytes], *, seconds: float, batch_size: int) -> float:
    """Measures the images per second of one process without a server."""

    def endless() -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for content in contents:
                yield Input("a", len(content), lambda most, content=content: content)

    done, begin = 0, 0.0
    for batch in stream.predict(endless(), predictor, batch_size=batch_size):
        begin = begin or time.monotonic()  # the first batch may compile
        done += len(batch)
    return (done - batch_size) / (time.monotonic() - begin)


def build_request(content: bytes, port: int) -> bytes:
    """Builds the bytes of a request."""
    disposition = 'Content-Disposition: form-data; name="file"; filename="a"'
    body = f"--{_BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Load:
    """The load of several clients.

    Attributes:
      seconds: duration of each successful request.
      outcomes: number of responses by status or error.
    """

    def __init__(self, port: int, requests: list[bytes]):
        self.port, self.requests = port, requests
        self.seconds: list[float] = []
        self.outcomes: collections.Counter[str] = collections.Counter()

    async def run(self, clients: int, seconds: float) -> float:
        """Runs the clients; returns the seconds until the last response."""
        begin = time.monotonic()
        await asyncio.gather(*(self._client(number, begin + seconds) for number in range(clients)))
        return time.monotonic() - begin

    async def _client(self, number: int, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        place = number * 7
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                writer.write(self.requests[place % len(self.requests)])
                async with asyncio.timeout(_TIMEOUT):
                    status, wait = await _read_response(reader)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                self.outcomes[type(error).__name__] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            self.outcomes[str(status)] += 1
            if status == 200:
                self.seconds.append(time.monotonic() - begin)
                place += 1
            elif wait:
                await asyncio.sleep(wait)
        writer.close()


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, float]:
    """Reads a response; returns its status and the seconds of its Retry-After header."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"^content-length: (\d+)", head, re.I | re.M)
    if not length:
        raise ValueError("a response without Content-Length")
    body = await reader.readexactly(int(length[1]))
    status = int(head.split(" ", 2)[1])
    if status == 200 and b'"prediction"' not in body:
        raise ValueError("a response without a prediction")
    wait = re.search(r"^retry-after: (\d+)", head, re.I | re.M)
    return status, float(wait[1]) if wait else 0.0


async def _get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    content = (await reader.read()).decode()
    writer.close()
    return content.partition("\r\n\r\n")[2]


def read_metric(port: int, name: str) -> float:
    """Reads a value of the server's metrics."""
    found = re.search(rf"^bt_jax_{name} (\S+)$", asyncio.run(_get(port, "/metrics")), re.M)
    return float(found[1]) if found else float("nan")


def measure_load(port: int, requests: list[bytes], *, clients: int, seconds: float, top: float) -> dict[str, Any]:
    """Measures one row of the result."""
    load, steps, pieces = Load(port, requests), read_metric(port, "steps"), read_metric(port, "slices_in_steps")
    took = asyncio.run(load.run(clients, seconds))
    steps, pieces = read_metric(port, "steps") - steps, read_metric(port, "slices_in_steps") - pieces
    rate = len(load.seconds) / took
    latency = np.percentile(load.seconds, (50, 99)) if load.seconds else (float("nan"), float("nan"))
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "requests_per_s": round(rate, 2),
        "share_of_ceiling": round(rate / top, 3),
        "latency_s_p50": round(float(latency[0]), 4),
        "latency_s_p99": round(float(latency[1]), 4),
        "slices_per_step": round(pieces / max(steps, 1), 2),
        "outcomes": dict(load.outcomes),
    }


def measure_endurance(port: int, requests: list[bytes], *, clients: int, minutes: float, top: float) -> dict[str, Any]:
    """Measures load for minutes, with the memory of the server every 15 seconds."""
    memory, rows, begin = [], [], time.monotonic()
    while (now := time.monotonic() - begin) < 60 * minutes:
        memory.append([round(now, 1), round(read_metric(port, "resident_bytes") / 1e6, 1)])
        rows.append(measure_load(port, requests, clients=clients, seconds=15, top=top))
    memory.append([round(time.monotonic() - begin, 1), round(read_metric(port, "resident_bytes") / 1e6, 1)])
    outcomes: collections.Counter[str] = sum(
        (collections.Counter(row["outcomes"]) for row in rows), collections.Counter()
    )
    later = [size for moment, size in memory if moment >= memory[-1][0] / 5]
    return {
        "clients": clients,
        "minutes": minutes,
        "requests_per_s": round(float(np.mean([row["requests_per_s"] for row in rows])), 2),
        "latency_s_p99": max(row["latency_s_p99"] for row in rows),
        "outcomes": dict(outcomes),
        "memory_mb_by_s": memory,
        # After the first fifth, in which programs are compiled and buffers grow.
        "memory_growth_mb": round(later[-1] - later[0], 1),
    }


def main() -> None:
    """Measures, prints, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each number of clients, and for the ceiling")
    parser.add_argument("--minutes", type=float, default=0.0, help="of endurance with the largest number of clients")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    contents = read_images(arguments.data, arguments.images)
    cli.prepare_to_compute()
    predictor = Predictor.load([arguments.model], batch_size=arguments.batch_size)
    seconds, batch_size = arguments.seconds, arguments.batch_size
    measure_ceiling(predictor, contents, seconds=1, batch_size=batch_size)
    tops = [measure_ceiling(predictor, contents, seconds=seconds, batch_size=batch_size)]
    command = [
        sys.executable,
        "-m",
        "bt_jax.serve",
        f"--model={arguments.model}",
        "--port=0",
        f"--batch_size={batch_size}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", server.stdout.readline())
            assert found, "the server did not start"
            port = int(found[1])
            while not json.loads(asyncio.run(_get(port, "/healthz")))["warm"]:
                time.sleep(0.5)
            requests = [build_request(content, port) for content in contents]
            rows = [
                measure_load(port, requests, clients=clients, seconds=seconds, top=tops[0])
                for clients in arguments.clients
            ]
            lasting = (
                measure_endurance(
                    port, requests, clients=max(arguments.clients), minutes=arguments.minutes, top=tops[0]
                )
                if arguments.minutes
                else None
            )
            server.send_signal(signal.SIGTERM)
            ended = server.wait(60)
        finally:
            server.kill()
    tops.append(measure_ceiling(predictor, contents, seconds=seconds, batch_size=batch_size))
    top = float(np.mean(tops))
    for row in rows:
        row["share_of_ceiling"] = round(row["requests_per_s"] / top, 3)
    result = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(),
        "python": platform.python_version(),
        "model": predictor.models[0].description.name,
        "images": f"{len(contents)} files, {sum(map(len, contents)) / len(contents) / 1000:.0f} kB on average",
        "batch_size": batch_size,
        "ceiling_images_per_s": [round(one, 2) for one in tops],
        "load": rows,
        "endurance": lasting,
        "exit_status": ended,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        files.write_json(arguments.json, result)


if __name__ == "__main__":
    main()
