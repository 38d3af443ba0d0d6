"""Runs bt_jax.main on TPU slices of a GKE cluster, as a JobSet.

    ./launch.sh gke print NAME --image=IMAGE --type=v5e --topology=4x4 --config=configs/effnet.py --workdir=gs://B/run
    ./launch.sh gke apply NAME --image=IMAGE --type=v6e --topology=2x4 --spot --account=trainer \\
        --data=gs://BUCKET/prepared --config=configs/effnet.py --workdir=gs://BUCKET/run
    ./launch.sh gke logs NAME
    ./launch.sh gke delete NAME

`print` writes the manifest, `apply` passes it to kubectl, and `--build` first builds and pushes the image with docker.
The cluster needs the JobSet controller, a node pool of the type and topology and, for --data, the Cloud Storage FUSE
driver. --account is a Kubernetes service account with access to the buckets. When a spot slice is preempted, its pods
save within their grace period. JobSet restarts all pods, and they resume from there.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands

# Label of the nodes, and maximum chips of a machine: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
_TYPES = {
    "v4": ("tpu-v4-podslice", 4),
    "v5e": ("tpu-v5-lite-podslice", 8),
    "v5p": ("tpu-v5p-slice", 4),
    "v6e": ("tpu-v6e-slice", 8),
}
_CHIPS_OF_A_HOST = 4  # in a slice of several machines; a machine with 8 chips is a slice of its own
_SPOT_GRACE, _GRACE = 25, 120  # seconds; a preempted node gives its pods 25
_MOUNT = "/data"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # JobSet makes host names from it


def main(arguments: Sequence[str]) -> int:
    """Runs an action."""
    own, flags = commands.split_flags(arguments)
    options = _make_parser().parse_args(own)
    shell = commands.Shell(dry_run=options.dry_run)
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"{options.name!r} is not a valid name: use at most 40 lower-case letters, digits and hyphens")
    where = [f"--namespace={options.namespace}"]
    if options.action == "logs":
        first = f"jobset.sigs.k8s.io/jobset-name={options.name},batch.kubernetes.io/job-completion-index=0"
        shell.run("kubectl", "logs", *where, f"--selector={first}", "--follow", "--tail=-1")
    elif options.action == "delete":
        shell.run("kubectl", "delete", "jobset", options.name, *where)
    else:
        if options.build:
            commands.require_checkout("--build")
        text = format_yaml(_check_and_make_manifest(options, flags))
        if options.build:
            shell.run("docker", "build", "-f", "bt_jax/launch/Dockerfile", "-t", options.image, ".")
            shell.run("docker", "push", options.image)
        print(text, end="", flush=True)
        if options.action == "apply":
            shell.run("kubectl", "apply", "-f", "-", stdin=text)
    return 0


def _make_parser() -> commands.Options:
    parser = commands.Options(__doc__ or "", command="gke")
    parser.add_argument("action", choices=("print", "apply", "logs", "delete"), help="action to run")
    parser.add_argument("name", help="name of the JobSet")
    parser.add_argument("--namespace", default="default", help="namespace of the cluster (default: default)")
    parser.add_argument("--image", help="image with this checkout installed, see bt_jax/launch/Dockerfile")
    parser.add_argument("--build", action="store_true", help="build the image and push it first")
    parser.add_argument("--type", choices=tuple(_TYPES), help="type of the TPU")
    parser.add_argument("--topology", help="topology of the slice, such as 2x4 or 2x2x2")
    parser.add_argument(
        "--chips-per-host", type=int, help="chips of each machine (default: 4, or all of a smaller slice)"
    )
    parser.add_argument("--spot", action="store_true", help="use spot nodes")
    parser.add_argument("--account", help="Kubernetes service account of the pods")
    parser.add_argument("--data", help="gs://BUCKET/FOLDER, mounted in the pods as a folder")
    parser.add_argument("--restarts", type=int, default=20, help="maximum restarts of the JobSet (default: 20)")
    return parser


def _check_and_make_manifest(options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    commands.require_config(flags)
    for name in ("image", "type", "topology"):
        if not getattr(options, name):
            raise UsageError(f"--{name} is missing (see {commands.name_program('gke')} --help)")
    workdir = commands.get_value(flags, "--workdir") or ""
    if not workdir.startswith("gs://"):
        raise UsageError(f"--workdir is {workdir!r}, which is lost with the pods: use --workdir=gs://BUCKET/FOLDER")
    if options.data and not re.fullmatch(r"gs://[^/]+(/.*)?", options.data):
        raise UsageError(f"--data is {options.data!r}: use gs://BUCKET/FOLDER")
    return make_manifest(
        flags,
        name=options.name,
        namespace=options.namespace,
        image=options.image,
        kind=options.type,
        topology=options.topology,
        chips_per_host=options.chips_per_host,
        spot=options.spot,
        account=options.account,
        data=options.data,
        restarts=options.restarts,
    )


def count_hosts(kind: str, topology: str, chips_per_host: int | None) -> tuple[int, int]:
    """Returns the number of machines of a slice and the chips of each.

    Args:
      kind: such as v5e.
      topology: chips along each axis, such as 2x4.
      chips_per_host: None: 4, or all chips of a smaller slice.

    Raises:
      UsageError: the topology is malformed, or its chips cannot be divided into such machines.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", topology):
        raise UsageError(f"--topology is {topology!r}: use the chips along each axis, such as 2x4")
    chips = math.prod(map(int, topology.split("x")))
    each = chips_per_host or min(chips, _CHIPS_OF_A_HOST)
    most = _TYPES[kind][1]
    if not 1 <= each <= most or chips % each:
        raise UsageError(f"--chips-per-host is {each}: use a divisor of {topology}, at most {most}")
    return chips // each, each


def make_manifest(
    flags: Sequence[str],
    *,
    name: str,
    namespace: str,
    image: str,
    kind: str,
    topology: str,
    chips_per_host: int | None,
    spot: bool,
    account: str | None,
    data: str | None,
    restarts: int,
) -> dict[str, Any]:
    """Makes the JobSet: one job with a pod for each machine of a slice. When a pod fails, all are restarted.

    The arguments are those of the command line.
    """
    hosts, chips = count_hosts(kind, topology, chips_per_host)
    container: dict[str, Any] = {
        "name": "bt-jax",
        "image": image,
        "args": [*flags, *([f"--config.data.dir={_MOUNT}"] if data else [])],
        "ports": [{"containerPort": 8471}, {"containerPort": 8482}],  # of the TPU runtime and of JAX's coordinator
        "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _SPOT_GRACE if spot else _GRACE,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _TYPES[kind][0],
            "cloud.google.com/gke-tpu-topology": topology,
        },
        "containers": [container],
    }
    if spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    if account:
        pod["serviceAccountName"] = account
    template: dict[str, Any] = {"spec": pod}
    if data:
        template = {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": pod}
        container["volumeMounts"] = [{"name": "data", "mountPath": _MOUNT, "readOnly": True}]
        pod["volumes"] = [{"name": "data", "csi": _make_bucket_volume(data)}]
    job = {"parallelism": hosts, "completions": hosts, "backoffLimit": 0, "template": template}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": restarts},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _make_bucket_volume(url: str) -> dict[str, Any]:
    """Makes a volume of the Cloud Storage FUSE driver with one folder of a bucket."""
    bucket, _, folder = url.removeprefix("gs://").rstrip("/").partition("/")
    options = ["implicit-dirs", *([f"only-dir={folder}"] if folder else [])]
    attributes = {"bucketName": bucket, "mountOptions": ",".join(options)}
    return {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}


def format_yaml(content: Any, indent: str = "") -> str:
    """Formats nested dicts and lists of strings, numbers and booleans as YAML, with strings quoted as in JSON."""
    if isinstance(content, Mapping):
        return "".join(f"{indent}{key}:{_format_below(value, indent)}" for key, value in content.items())
    return "".join(f"{indent}- {_format_item(value, indent)}" for value in content)


def _format_below(value: Any, indent: str) -> str:
    if isinstance(value, Mapping | list) and value:
        return f"\n{format_yaml(value, indent + '  ')}"
    return f" {json.dumps(value, ensure_ascii=False)}\n"


def _format_item(value: Any, indent: str) -> str:
    if isinstance(value, Mapping | list) and value:
        return format_yaml(value, indent + "  ").removeprefix(indent + "  ")
    return f"{json.dumps(value, ensure_ascii=False)}\n"


if __name__ == "__main__":
    commands.run_launcher(main)
