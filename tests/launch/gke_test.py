"""The launcher for GKE: its manifest, and a stand-in for kubectl that takes it."""

import pathlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.launch import gke
from tests.launch.clouds import Cloud

FLAGS = ["--config=configs/effnet.py", "--workdir=gs://bucket/run"]
SLICE = ["--image=registry/bt_jax:1", "--type=v5e", "--topology=4x4"]


def test_the_manifest_of_a_plain_slice(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert gke.main(["print", "mine", *SLICE, *FLAGS]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (container,) = pod["containers"]
    assert container["args"] == FLAGS
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert "volumes" not in pod and "serviceAccountName" not in pod and pod["restartPolicy"] == "Never"
    assert cloud.calls() == []


def test_a_spot_slice_with_data_is_applied(cloud: Cloud) -> None:
    more = ["--spot", "--account=trainer", "--data=gs://bucket/some/folder/", "--namespace=us", "--restarts=3"]
    assert gke.main(["apply", "mine", *SLICE, *more, *FLAGS]) == 0
    assert cloud.calls() == ["kubectl apply -f -"]
    found = yaml.safe_load(cloud.calls(stdin=True)[0])
    assert found["metadata"]["namespace"] == "us"
    assert found["spec"]["failurePolicy"] == {"maxRestarts": 3}
    template = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    pod = template["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"  # a string: labels know no truth values
    assert pod["terminationGracePeriodSeconds"] == 25
    assert pod["serviceAccountName"] == "trainer"
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"] == {
        "bucketName": "bucket",
        "mountOptions": "implicit-dirs,only-dir=some/folder",
    }
    (container,) = pod["containers"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data", "readOnly": True}]
    assert container["args"] == [*FLAGS, "--config.data.dir=/data"]


def test_the_image_is_built_first(cloud: Cloud) -> None:
    assert gke.main(["apply", "mine", *SLICE, "--build", *FLAGS]) == 0
    assert cloud.calls() == [
        "docker build -f bt_jax/launch/Dockerfile -t registry/bt_jax:1 .",
        "docker push registry/bt_jax:1",
        "kubectl apply -f -",
    ]


def test_logs_and_deletion(cloud: Cloud) -> None:
    assert gke.main(["logs", "mine"]) == 0
    assert gke.main(["delete", "mine", "--namespace=us"]) == 0
    logs, delete = cloud.calls()
    assert "jobset.sigs.k8s.io/jobset-name=mine" in logs and "job-completion-index=0" in logs
    assert delete == "kubectl delete jobset mine --namespace=us"


@pytest.mark.parametrize(
    ("kind", "topology", "each", "hosts"),
    [
        ("v5e", "1x1", None, (1, 1)),
        ("v5e", "2x2", None, (1, 4)),
        ("v5e", "2x4", None, (2, 4)),
        ("v5e", "2x4", 8, (1, 8)),
        ("v6e", "16x16", None, (64, 4)),
        ("v4", "2x2x2", None, (2, 4)),
        ("v5p", "4x4x4", None, (16, 4)),
    ],
)
def test_machines_of_a_slice(kind: str, topology: str, each: int | None, hosts: tuple[int, int]) -> None:
    assert gke.count_hosts(kind, topology, each) == hosts


@pytest.mark.parametrize(("kind", "topology", "each"), [("v5e", "4", None), ("v5e", "0x4", None), ("v4", "2x2x2", 8)])
def test_a_slice_that_cannot_be_is_one_clear_line(kind: str, topology: str, each: int | None) -> None:
    with pytest.raises(UsageError, match=r"--topology is|--chips-per-host is"):
        gke.count_hosts(kind, topology, each)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["print", "mine", *SLICE, "--workdir=gs://b/r"], "--config is missing"),
        (["print", "mine", *SLICE, "--config=c", "--workdir=runs/a"], "which is lost with the pods"),
        (["print", "mine", "--type=v5e", "--topology=2x4", *FLAGS], "--image is missing"),
        (["print", "mine", *SLICE, "--data=here", *FLAGS], "use gs://BUCKET/FOLDER"),
        (["print", "Mine", *SLICE, *FLAGS], "lower-case letters"),
    ],
)
def test_a_mistake_is_one_clear_line(cloud: Cloud, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        gke.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_dry_run_calls_nothing(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert gke.main(["apply", "mine", *SLICE, "--build", "--dry-run", *FLAGS]) == 0
    out = capsys.readouterr().out
    assert "+ docker build" in out and out.endswith("+ kubectl apply -f -\n")
    assert cloud.calls() == []


def test_the_image_starts_the_program_with_the_flags() -> None:
    lines = (pathlib.Path(gke.__file__).parent / "Dockerfile").read_text().splitlines()
    assert lines[-1] == 'ENTRYPOINT ["python", "-m", "bt_jax.main"]'


plain = st.one_of(
    st.booleans(),
    st.integers(),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"])),
)
names = st.from_regex(r"[a-z][a-z./-]{0,8}[a-z]", fullmatch=True)


@given(
    st.dictionaries(
        names.filter(lambda name: yaml.safe_load(name) == name),
        st.recursive(
            plain,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(names.filter(lambda name: yaml.safe_load(name) == name), inner, max_size=3),
            ),
            max_leaves=8,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_written_is_read_again(content: dict[str, object]) -> None:
    assert yaml.safe_load(gke.format_yaml(content)) == content
