"""`python -m deploy.k8s.check --crds DIR`: is every overlay what Kubernetes and this service take?

Builds each overlay with kubectl's kustomize and prints every fault it finds. Core objects are held to the schemas of
Kubernetes 1.30 to 1.37, strictly: an unknown field is a fault. Custom objects are held to the definitions in DIR, a
folder of CustomResourceDefinitions as YAML, and to their rules in CEL; one that no definition covers is a fault too.
Then what no schema knows: probes ask routes that the service has, options are the service's, selectors find pods,
series exist. Needs the extra `deploy` and kubectl.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from deploy.k8s.cel import broken_rules
from service.settings import Settings
from trainer.config.training import TrainOptions

HERE = Path(__file__).parent
OVERLAYS = HERE / "overlays"
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# Series of vLLM's that dashboards, alerts, autoscaling and the endpoint picker ask for; a test finds them there.
OF_VLLM = (
    "vllm:cache_config_info",
    "vllm:generation_tokens_total",
    "vllm:inter_token_latency_seconds",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prompt_tokens_total",
)

Object = dict[str, Any]


@dataclass(frozen=True)
class Definition:
    """A custom kind: its schema as an API server has it, and as JSON schema that takes no unknown field."""

    schema: Object
    strict: Object


Definitions = dict[tuple[str, str], Definition]


def build(overlay: Path, kubectl: str) -> list[Object]:
    """The objects of an overlay.

    Raises:
        subprocess.CalledProcessError: kustomize does not take it; its words are in `stderr`.
    """
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def faults(objects: list[Object], crds: Definitions, routes: set[str], series: set[str]) -> list[str]:
    """Everything wrong with one overlay's objects, each as `Kind/name: fault`."""
    found: list[str] = []
    for each in objects:
        about = f"{each['kind']}/{each['metadata']['name']}"
        checks = [_schema(each, crds), _options(each), _series(each, series)]
        checks += [_probes(each, routes), _mounts(each), _selects(each, objects), _trains(each), _leads(each, objects)]
        found += [f"{about}: {fault}" for check in checks for fault in check]
    return found


def load_crds(folder: Path) -> Definitions:
    """Each kind and API version that a folder of CustomResourceDefinitions defines.

    Raises:
        FileNotFoundError: there is none in it.
    """
    schemas: Definitions = {}
    for file in sorted(folder.glob("*.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            kind = (spec["names"]["kind"], f"{spec['group']}/{version['name']}")
            schemas[kind] = Definition(schema, _strict(schema))
    if not schemas:
        raise FileNotFoundError(f"{folder}: no CustomResourceDefinition (*.yaml) in it")
    return schemas


def _strict(schema: Object) -> Object:
    """A CRD's schema as JSON schema: fields it does not name are refused, as the API server's strict mode does."""
    strict = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in schema:
        strict["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = _strict(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        strict = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if schema.get("nullable") and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    return strict


def _schema(each: Object, crds: Definitions) -> Iterator[str]:
    kind = (each["kind"], each["apiVersion"])
    if kind in crds:
        # metadata is Kubernetes's own, `type: object` in every CRD.
        body = {key: value for key, value in each.items() if key != "metadata"} | {"metadata": {}}
        for error in jsonschema.Draft202012Validator(crds[kind].strict).iter_errors(body):
            yield f"{'.'.join(map(str, error.path))}: {error.message}"
        yield from broken_rules(each, crds[kind].schema)
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"no schema for {kind[1]} in Kubernetes {version}, nor a CustomResourceDefinition"
            return


def _pods(each: Object) -> Iterator[Object]:
    spec = each.get("spec", {})
    owners = [spec, *(job["template"]["spec"] for job in spec.get("replicatedJobs", []))]  # a JobSet's
    yield from (owner["template"] for owner in owners if "template" in owner)


def _containers(each: Object) -> Iterator[tuple[Object, Object]]:
    for template in _pods(each):
        for container in template["spec"]["containers"]:
            yield template["spec"], container


def _probes(each: Object, routes: set[str]) -> Iterator[str]:
    for _, container in _containers(each):
        ports = {port.get("name") for port in container.get("ports", [])} | {Settings.model_fields["port"].default}
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(name, {}).get("httpGet")
            if asked and asked["path"] not in routes:
                yield f"{name} asks {asked['path']}, which the service does not have"
            if asked and asked["port"] not in ports:
                yield f"{name} asks port {asked['port']}, which the container does not have"


def _options(each: Object) -> Iterator[str]:
    """Options of the service in ConfigMaps and containers, and that a ConfigMap that is named is there."""
    named = list(each.get("data") or {}) if each["kind"] == "ConfigMap" else []
    named += [entry["name"] for _, container in _containers(each) for entry in container.get("env", [])]
    options = {f"VQA_{field.upper()}" for field in Settings.model_fields}
    for name in named:
        if name.startswith("VQA_") and name not in options:
            yield f"{name} is no option of the service"


def _mounts(each: Object) -> Iterator[str]:
    for spec, container in _containers(each):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{mount['mountPath']} mounts the volume {mount['name']}, which is not there"
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield "the root file system can be written"


def _selects(each: Object, objects: list[Object]) -> Iterator[str]:
    spec = each.get("spec", {})
    pods = [template["metadata"]["labels"] for other in objects for template in _pods(other)]
    selector = spec.get("podSelector") or spec.get("selector")
    if selector and each["kind"] != "PersistentVolumeClaim":
        labels = selector.get("matchLabels", selector)
        if not any(labels.items() <= pod.items() for pod in pods):
            yield f"no pod has the labels {labels}"
    target = spec.get("scaleTargetRef")
    names = {(other["kind"], other["metadata"]["name"]) for other in objects}
    if target and (target.get("kind", "Deployment"), target["name"]) not in names:
        yield f"there is no {target['name']} to scale"
    wanted = [
        source.get("configMapRef") for _, container in _containers(each) for source in container.get("envFrom", [])
    ]
    wanted += [volume.get("configMap") for pod in _pods(each) for volume in pod["spec"].get("volumes", [])]
    for source in wanted:
        if source and ("ConfigMap", source["name"]) not in names:
            yield f"there is no ConfigMap {source['name']}"


def _leads(each: Object, objects: list[Object]) -> Iterator[str]:
    """Where routes and pools lead: a Service or a pool of these objects, on a port that is there."""
    spec, ports = each.get("spec", {}), dict[tuple[str, str], set[int]]()
    for other in objects:
        there = other.get("spec", {}).get("ports" if other["kind"] == "Service" else "targetPorts", [])
        ports[other["kind"], other["metadata"]["name"]] = {port.get("port", port.get("number")) for port in there}
    picker = spec.get("endpointPickerRef")
    leads = [({"kind": "Service"} | picker | {"port": picker["port"]["number"]})] if picker else []
    rules = spec.get("rules", []) if each["kind"] == "HTTPRoute" else []
    leads += [backend for rule in rules for backend in rule.get("backendRefs", [])]
    leads += [{"kind": "InferencePool"} | spec["poolRef"]] if "poolRef" in spec else []
    for lead in leads:
        name = (lead.get("kind", "Service"), lead["name"])
        if name not in ports:
            yield f"there is no {name[0]} {name[1]}"
        elif "port" in lead and lead["port"] not in ports[name]:
            yield f"{name[0]} {name[1]} has no port {lead['port']}"


def _trains(each: Object) -> Iterator[str]:
    """Options of a training that is begun in a container."""
    options = {name.replace("_", "-") for name in TrainOptions.model_fields}
    for _, container in _containers(each):
        command = " ".join([*container.get("command", []), *container.get("args", [])])
        for name in re.findall(r"--([a-z-]+)", command.partition("-m trainer train")[2]):
            if name not in options:
                yield f"--{name} is no option of the trainer"


def _series(each: Object, series: set[str]) -> Iterator[str]:
    """Series that autoscaling, rules and alerts ask for; recorded ones have a colon before `vqa_`."""
    spec = each.get("spec", {})
    queries = [trigger["metadata"].get("query", "") for trigger in spec.get("triggers", [])]
    queries += [rule.get("expr", "") for group in spec.get("groups", []) for rule in group["rules"]]
    queries += [file for file in (each.get("data") or {}).values() if "kind: EndpointPickerConfig" in file]
    for name in re.findall(r"(?<![\w:])(vqa_\w+|vllm:\w+)", "\n".join(queries)):
        if re.sub(r"_(bucket|sum|count)$", "", name) not in series:
            yield f"{name} is no series of the service"


def known_routes() -> set[str]:
    """The paths that a probe may ask."""
    from service.routes import ops

    return {getattr(route, "path", "") for route in ops.router.routes}


def known_series() -> set[str]:
    """The names of the service's series, and of those of vLLM's that are relied on."""
    sources = "".join(file.read_text() for file in (HERE.parents[1] / "service").rglob("*.py"))
    return {*re.findall(r'"(vqa_\w+|vllm:\w+)"', sources), *OF_VLLM}


def main(arguments: list[str] | None = None) -> int:
    """Check every overlay; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.k8s.check", description=(__doc__ or "").partition(".")[0])
    parser.add_argument("--crds", type=Path, required=True, help="folder of CustomResourceDefinitions (*.yaml)")
    parser.add_argument("--kubectl", default="kubectl", help="the command that builds overlays [kubectl]")
    parser.add_argument("--overlays", type=Path, default=OVERLAYS, help="folder of overlays [those of this folder]")
    options = parser.parse_args(arguments)
    crds, routes, series, count = load_crds(options.crds), known_routes(), known_series(), 0
    for overlay in sorted(path for path in options.overlays.iterdir() if path.is_dir()):
        try:
            objects = build(overlay, options.kubectl)
        except subprocess.CalledProcessError as error:
            found, objects = [error.stderr.strip()], []
        else:
            found = faults(objects, crds, routes, series)
        count += len(found)
        print(f"{overlay.name}: {len(objects)} objects, {len(found)} faults")
        print("".join(f"  {fault}\n" for fault in found), end="")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
