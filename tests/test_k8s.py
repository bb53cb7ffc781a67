"""The manifests' check passes on what is there and fails on each thing that must not be: `make test-k8s`.

Needs kubectl (MANYLENS_KUBECTL names another one) and a folder of CustomResourceDefinitions in MANYLENS_CRDS.
"""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.k8s import check
from tests.conftest import ROOT

KUBECTL = os.environ.get("MANYLENS_KUBECTL", "kubectl")
CRDS = os.environ.get("MANYLENS_CRDS", "")
CHECKOV = os.environ.get("MANYLENS_CHECKOV", "checkov")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which(KUBECTL) or not CRDS, reason="needs kubectl, and MANYLENS_CRDS"),
]
Objects = list[check.Object]


@pytest.fixture(scope="module", params=sorted(path.name for path in check.OVERLAYS.iterdir() if path.is_dir()))
def overlay(request: pytest.FixtureRequest) -> Objects:
    return check.build(check.OVERLAYS / request.param, KUBECTL)


@pytest.fixture(scope="module")
def scaled() -> Objects:
    return check.build(check.OVERLAYS / "scaled", KUBECTL)


def faults(objects: Objects) -> list[str]:
    return check.faults(objects, check.load_crds(Path(CRDS)), check.known_routes(), check.known_series())


def test_every_overlay_is_as_kubernetes_and_the_service_take_it(overlay: Objects) -> None:
    assert faults(overlay) == []


def _of(objects: Objects, kind: str) -> Any:
    return next(each for each in objects if each["kind"] == kind)


def _container(objects: Objects) -> Any:
    return _named(objects, "Deployment", "manylens")["spec"]["template"]["spec"]["containers"][0]


def _named(objects: Objects, kind: str, name: str) -> Any:
    return next(each for each in objects if each["kind"] == kind and each["metadata"]["name"].startswith(name))


def _picker(objects: Objects) -> Any:
    return _named(objects, "ConfigMap", "manylens-picker")["data"]


def _picker_pod(objects: Objects) -> Any:
    return _named(objects, "Deployment", "manylens-picker")["spec"]["template"]["spec"]


MUTATIONS: dict[str, tuple[Callable[[Objects], Any], str]] = {
    "a probe's path": (
        lambda all_: _container(all_)["readinessProbe"]["httpGet"].update(path="/ready"),
        "asks /ready, which",
    ),
    "a probe's port": (lambda all_: _container(all_)["livenessProbe"]["httpGet"].update(port="web"), "asks port web"),
    "a label": (
        lambda all_: _of(all_, "Deployment")["spec"]["template"]["metadata"]["labels"].update(
            {"app.kubernetes.io/name": "other"}
        ),
        "no pod has the labels",
    ),
    "a series": (
        lambda all_: _of(all_, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(query="sum(vqa_waiting)"),
        "vqa_waiting is no series",
    ),
    "an unknown field": (lambda all_: _of(all_, "Service")["spec"].update(portz=[]), "portz"),
    "an unknown field of a custom object": (
        lambda all_: _of(all_, "ScaledObject")["spec"].update(minReplicas=1),
        "minReplicas",
    ),
    "a number for a text": (
        lambda all_: _of(all_, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(threshold=45),
        "45 is not of type 'string'",
    ),
    "an option": (lambda all_: _of(all_, "ConfigMap")["data"].update(VQA_MODELL="x"), "VQA_MODELL is no option"),
    "a ConfigMap's name": (
        lambda all_: _container(all_)["envFrom"][0]["configMapRef"].update(name="other"),
        "there is no ConfigMap other",
    ),
    "a volume": (
        lambda all_: _container(all_)["volumeMounts"][0].update(name="disk"),
        "mounts the volume disk",
    ),
    "a root file system that can be written": (
        lambda all_: _container(all_)["securityContext"].pop("readOnlyRootFilesystem"),
        "root file system",
    ),
    "a series that the endpoint picker reads": (
        lambda all_: _picker(all_).update({"picker.yaml": _picker(all_)["picker.yaml"].replace("_waiting", "_queued")}),
        "vqa_requests_queued is no series",
    ),
    "a picker's file": (
        lambda all_: _picker_pod(all_)["volumes"][0]["configMap"].update(name="other"),
        "there is no ConfigMap other",
    ),
    "a picker's port": (
        lambda all_: _of(all_, "InferencePool")["spec"]["endpointPickerRef"]["port"].update(number=9003),
        "Service manylens-picker has no port 9003",
    ),
    "a pool's pods": (
        lambda all_: _of(all_, "InferencePool")["spec"]["selector"]["matchLabels"].update(app="other"),
        "no pod has the labels",
    ),
    "a route's pool": (
        lambda all_: _of(all_, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(name="other"),
        "there is no InferencePool other",
    ),
    "an objective's pool": (
        lambda all_: _of(all_, "InferenceObjective")["spec"]["poolRef"].update(name="other"),
        "there is no InferencePool other",
    ),
    "what is scaled": (
        lambda all_: _of(all_, "ScaledObject")["spec"]["scaleTargetRef"].update(name="other"),
        "there is no other to scale",
    ),
}


def test_the_check_fails_on_an_option_that_the_trainer_does_not_have() -> None:
    changed = check.build(check.OVERLAYS / "trainer", KUBECTL)
    container = _of(changed, "Job")["spec"]["template"]["spec"]["containers"][0]
    container["args"][0] = container["args"][0].replace("--model", "--base")
    assert "Job/manylens-train: --base is no option of the trainer" in faults(changed)


@pytest.mark.parametrize("what", MUTATIONS)
def test_the_check_fails_on(what: str, scaled: Objects) -> None:
    changed, (mutate, expected) = copy.deepcopy(scaled), MUTATIONS[what]
    mutate(changed)
    assert any(expected in fault for fault in faults(changed)), faults(changed)


@pytest.mark.skipif(not shutil.which(CHECKOV), reason="needs checkov (make test-k8s installs it)")
def test_no_policy_of_checkov_is_broken_that_has_no_reason_beside_it(tmp_path: Path) -> None:
    for overlay in sorted(path for path in check.OVERLAYS.iterdir() if path.is_dir() and path.name != "local"):
        objects = check.build(overlay, KUBECTL)
        (tmp_path / f"{overlay.name}.yaml").write_text(yaml.safe_dump_all(objects))
    common = ["--skip-download", "--compact", "--quiet", "--config-file", str(ROOT / "deploy/checkov.yaml")]
    for what in (["-d", str(tmp_path), "--framework", "kubernetes"], ["-f", "Dockerfile", "--framework", "dockerfile"]):
        done = subprocess.run([CHECKOV, *what, *common], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Passed checks: " in done.stdout  # it did read them
    (tmp_path / "cpu.yaml").write_text(
        (tmp_path / "cpu.yaml").read_text().replace("allowPrivilegeEscalation: false", "")
    )
    broken = subprocess.run([CHECKOV, "-d", str(tmp_path), "--framework", "kubernetes", *common], capture_output=True)
    assert broken.returncode == 1


ROUTE: check.Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "manylens"},
    "spec": {
        "parentRefs": [{"name": "gateway"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                "backendRefs": [{"name": "manylens", "port": 8000}],
            }
        ],
    },
}
# What the schema of an HTTPRoute lets pass and its rules in CEL do not.
BROKEN_RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a relative path": (
        lambda rule: rule["matches"][0]["path"].update(value="v1"),
        "value must be an absolute path",
    ),
    "no port": (lambda rule: rule["backendRefs"][0].pop("port"), "Must have port for Service reference"),
    "a filter of another type": (
        lambda rule: rule.update(filters=[{"type": "RequestRedirect", "requestHeaderModifier": {}}]),
        "filter.requestRedirect must be specified",
    ),
    "a rewrite that says not to what": (
        lambda rule: rule.update(filters=[{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}}]),
        "replaceFullPath must be specified",
    ),
}


def test_an_object_that_keeps_the_rules_of_its_definition_passes(scaled: Objects) -> None:
    assert faults([ROUTE, *scaled]) == []


@pytest.mark.parametrize("what", BROKEN_RULES)
def test_the_check_fails_on_a_broken_rule(what: str) -> None:
    changed, (mutate, expected) = copy.deepcopy(ROUTE), BROKEN_RULES[what]
    mutate(changed["spec"]["rules"][0])
    assert any(expected in fault for fault in faults([changed])), faults([changed])


def test_without_definitions_the_check_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check.main(["--crds", str(tmp_path), "--kubectl", KUBECTL])


def test_an_overlay_that_kustomize_refuses_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/kustomization.yaml").write_text("resources: [gone.yaml]")
    assert check.main(["--crds", CRDS, "--kubectl", KUBECTL, "--overlays", str(tmp_path)]) == 1
    assert "gone.yaml" in capsys.readouterr().out
