#!/usr/bin/env python3
"""Renders the Helm chart and the kustomizations, and holds every document against Kubernetes' schemas.

Kinds that are not Kubernetes' own, such as ServiceMonitor, are only named: their schemas are not here.

    validate.py --kubectl PATH
"""

import argparse
import pathlib
import subprocess
import sys

import helm_python as helm
import kubernetes_validate as schemas
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
CHART = DEPLOY / "helm" / "lockd"
VERSIONS = ["1.29", "1.37"]

ETCD = {"type": "etcd", "etcd": {"endpoints": ["http://a:2379", "http://b:2379"]}}
VALUES = {
    "as it is": {},
    "etcd": {"store": ETCD, "replicas": 3},
    "everything": {
        "store": {"type": "etcd", "etcd": {**ETCD["etcd"], "existingSecret": "s", "tls": True, "auth": True}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "x"}}}]},
        "image": {"repository": "registry.example/lockd", "tag": "1", "pullSecrets": ["pull"]},
        "extraEnv": [{"name": "LOCKD_MAX_WAITERS", "value": "5"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "x"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "priorityClassName": "high",
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "nameOverride": "locks",
    },
    "nothing that can be off": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "topologySpread": {"enabled": False},
        "store": {"type": "embedded", "embedded": {"size": "2Gi", "storageClassName": "fast"}},
    },
}
# Each breaks one rule of values.schema.json.
REFUSED = {
    "an unknown key": {"replicaCount": 3},
    "an unknown key further down": {"image": {"repository": "lockd", "digest": "x"}},
    "no endpoints": {"store": {"type": "etcd"}},
    "a store that is none": {"store": {"type": "redis"}},
    "a size without a unit": {"store": {"type": "embedded", "embedded": {"size": "1"}}},
    "no replica": {"replicas": 0},
}
KUSTOMIZATIONS = ["base", "overlays/ha", "sidecar-example", "overlays/sidecar-classic"]


def check(source: str, text: str) -> list[str]:
    """What is wrong with the documents of a rendered text."""
    wrong, kinds = [], []
    for document in filter(None, yaml.safe_load_all(text)):
        kind = document["kind"]
        kinds.append(kind)
        wrong += restricted(source, document)
        for version in VERSIONS:
            try:
                schemas.validate(document, version, strict=True)
            except schemas.SchemaNotFoundError:
                print(f"  {source}: {kind} is not of Kubernetes {version}: not checked")
            except schemas.ValidationError as error:
                wrong.append(f"{source}: {kind} in {version}: {error.message} at {list(error.path)}")
    print(f"  {source}: {' '.join(kinds)}")
    return wrong if kinds else [f"{source}: nothing was rendered"]


def restricted(source: str, document: dict) -> list[str]:
    """Where a pod is less than what the Pod Security Standard 'restricted' asks for."""
    pod = document["spec"] if document["kind"] == "Pod" else document.get("spec", {}).get("template", {}).get("spec")
    if not pod:
        return []
    wrong = []
    for container in pod.get("initContainers", []) + pod["containers"]:
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        asked = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "seccompProfile": context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities", {}).get("drop") == ["ALL"],
            "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
        }
        wrong += [f"{source}: {container['name']}: {what}" for what, kept in asked.items() if not kept]
    return wrong


def charts() -> list[str]:
    wrong = []
    # `messages` are findings; an error is one that `helm lint` fails for.
    found = helm.lint(str(CHART))
    print(f"  helm lint: {found}")
    with helm.Chart.load(str(CHART)) as chart:
        for name, values in VALUES.items():
            rendered = chart.render(values, name="demo", namespace="locks")
            texts = [text for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
            wrong += check(f"chart, {name}", "\n---\n".join(texts))
        for name, values in REFUSED.items():
            try:
                chart.render(values, name="demo", namespace="locks")
                chart.validate_schema(values)
            except helm.HelmError as error:
                print(f"  chart, {name}: refused: {str(error).splitlines()[-1].strip()}")
            else:
                wrong.append(f"chart, {name}: was not refused")
    return wrong


def kustomizations(kubectl: str) -> list[str]:
    wrong = []
    for name in KUSTOMIZATIONS:
        command = [kubectl, "kustomize", str(DEPLOY / "kustomize" / name)]
        rendered = subprocess.run(command, capture_output=True, text=True)
        if rendered.returncode:
            wrong.append(f"kustomize {name}: {rendered.stderr.strip()}")
        else:
            wrong += check(f"kustomize {name}", rendered.stdout)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubectl", required=True)
    wrong = charts() + kustomizations(parser.parse_args().kubectl)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
