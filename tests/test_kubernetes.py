"""The manifests of examples/kubernetes: every field is one that Kubernetes has, and the commands are ours."""

import re
import shlex
from pathlib import Path

import pytest

from train.cli import flags

yaml = pytest.importorskip("yaml")
FOLDER = Path(__file__).parent.parent / "examples" / "kubernetes"
# JobSet v1alpha2, which is no part of Kubernetes: the fields of each of its objects, and whose objects they hold.
JOBSET = {
    "JobSet": {"apiVersion": "", "kind": "", "metadata": "V1ObjectMeta", "spec": "JobSetSpec"},
    "JobSetSpec": {
        "replicatedJobs": "list[ReplicatedJob]", "network": "Network", "failurePolicy": "FailurePolicy",
        "successPolicy": "", "startupPolicy": "", "suspend": "", "coordinator": "", "managedBy": "",
        "ttlSecondsAfterFinished": "",
    },
    "ReplicatedJob": {"name": "", "groupName": "", "template": "V1JobTemplateSpec", "replicas": "", "dependsOn": ""},
    "Network": {"enableDNSHostnames": "", "subdomain": "", "publishNotReadyAddresses": ""},
    "FailurePolicy": {"maxRestarts": "", "restartStrategy": "", "rules": ""},
}  # fmt: skip
NAMES = ["train.yaml", "embed.yaml"]


def manifest(name):
    return yaml.safe_load((FOLDER / name).read_text())


def check(value, kind, fields, place):
    """`value` is what the type `kind` may be; `fields` gives the fields of an object with their types."""
    inner = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind)
    if inner and inner[1] == "list":
        assert isinstance(value, list), place
        for index, one in enumerate(value):
            check(one, inner[2], fields, f"{place}[{index}]")
    elif inner:
        assert isinstance(value, dict), place
        for key, one in value.items():
            check(one, inner[2], fields, f"{place}.{key}")
    elif (known := fields(kind)) is not None:
        assert isinstance(value, dict), place
        for key, one in value.items():
            assert key in known, f"{place} has no field {key}"
            check(one, known[key], fields, f"{place}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{place} is {value!r}"


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_known(name):
    models = pytest.importorskip("kubernetes.client.models")

    def fields(kind):
        if kind in JOBSET:
            return JOBSET[kind]
        model = getattr(models, kind, None)
        if model is None:
            return None
        return {json: model.openapi_types[attribute] for attribute, json in model.attribute_map.items()}

    found = manifest(name)
    check(found, {"JobSet": "JobSet", "Job": "V1Job"}[found["kind"]], fields, name)
    found["spec"]["parallelsim"] = 1
    with pytest.raises(AssertionError, match="has no field parallelsim"):
        check(found, {"JobSet": "JobSet", "Job": "V1Job"}[found["kind"]], fields, name)


def test_training():
    found = manifest("train.yaml")
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert spec["parallelism"] == spec["completions"] == int(variables["PROCESSES"])
    host, port = variables["COORDINATOR"].split(":")
    assert host == f"{found['metadata']['name']}-{job['name']}-0-0.{found['metadata']['name']}"
    assert int(port) == container["ports"][0]["containerPort"]
    line = container["args"][0].replace("\\\n", " ")
    (command,) = re.findall(r"nfjax train (.*) &", line)
    given = {word.partition("=")[0] for word in shlex.split(command)}
    assert given == {"--config", "--workdir", "--coordinator", "--num_processes", "--process_id"}
    assert given <= flags.flags().keys()
