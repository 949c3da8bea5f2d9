"""The variables that a kubelet gives a container, from the objects of the API."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any

from tests.helm.chart import Object

Read = Callable[[str, str], Object]
"""The object of a kind (ConfigMap or Secret) and name, in the pod's namespace."""


def environment(pod: Object, read: Read, services: Iterable[Object] = ()) -> dict[str, str]:
    """The variables of the pod's one container, as the kubelet's documentation says.

    Those of Services come first (unless the pod wants none), then `envFrom`, then `env`, where `$(NAME)` stands for a
    variable that is there already.

    Raises:
        KeyError: a ConfigMap, Secret or key is missing, for which a kubelet would not start the container.
    """
    (container,) = pod["spec"]["containers"]
    found: dict[str, str] = {}
    if pod["spec"].get("enableServiceLinks", True):
        for service in services:
            found |= service_variables(service)
    for source in container.get("envFrom", ()):
        found |= read("ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", ()):
        if "valueFrom" in each:
            found[each["name"]] = _referred(pod, each["valueFrom"], read)
        else:
            found[each["name"]] = expanded(each.get("value", ""), found)
    return found


def expanded(text: str, known: dict[str, str]) -> str:
    """The text with `$(NAME)` replaced; unknown ones stay, and `$$(NAME)` is `$(NAME)`."""

    def replace(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return known.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z0-9_.-]+)\)", replace, text)


def service_variables(service: Object) -> dict[str, str]:
    """Those of a Service, in the form of Docker's links too."""
    name = service["metadata"]["name"].upper().replace("-", "_")
    address = service["spec"].get("clusterIP", "192.0.2.53")
    if address == "None":
        return {}
    port = service["spec"]["ports"][0]["port"]
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_PORT": f"tcp://{address}:{port}",
    }


def _referred(pod: Object, source: dict[str, Any], read: Read) -> str:
    match source:
        case {"secretKeyRef": {"name": name, "key": key}}:
            return base64.b64decode(read("Secret", name)["data"][key]).decode()
        case {"configMapKeyRef": {"name": name, "key": key}}:
            return str(read("ConfigMap", name)["data"][key])
        case {"fieldRef": {"fieldPath": path}}:
            value: Any = pod
            for part in path.split("."):
                value = value[part]
            return str(value)
    raise AssertionError(f"not a source that the chart uses: {source}")
