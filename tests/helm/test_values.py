"""The chart's values: the program's settings both ways, the schema, and the README's table."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from shared.settings import Settings, load_settings
from tests.helm import values_table
from tests.helm.chart import CHART, EXISTING, KEDA, NETLINK, PROMETHEUS, ROOT, Helm, HelmError, Values, one, render

DICTATED = {
    "redis_url": "valkey.enabled, valkey.auth, redis.url, redis.username, redis.existingSecret, redis.tls",
    "redis_sentinels": "redis.sentinel.addresses",
    "redis_sentinel_master": "redis.sentinel.master",
    "redis_sentinel_username": "redis.sentinel.username",
    "redis_sentinel_password": "redis.sentinel.existingSecret",
    "kubeconfig": "none: pods have their ServiceAccount",
    "kube_context": "none: pods have their ServiceAccount",
    "driver": "workers.exec, workers.netlink",
    "node_name": "none: the pod's node",
    "netns_dir": "none: the node's processes",
    "http": "http.host, http.port",
    "dashboard_host": "http.host",
    "dashboard_port": "dashboard.port",
    "dashboard_password": "dashboard.auth",
    "dashboard_trusted_proxy": "dashboard.trustedProxy",
}
"""Settings that follow from other values of the chart, and from which."""


def snake(name: str) -> str:
    return re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", name)


def camel(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)


def chart_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def test_every_setting_is_a_value_or_dictated_and_every_value_is_a_setting() -> None:
    ours = {snake(name) for name in chart_values()["settings"]}
    assert ours | set(DICTATED) == set(Settings.model_fields)
    assert not ours & set(DICTATED)
    described = values_table.defaults()
    for places in DICTATED.values():
        for place in () if places.startswith("none: ") else places.split(", "):
            assert any(name == place or name.startswith(f"{place}.") for name in described), place


def test_every_setting_has_the_programs_default() -> None:
    # As JSON has it: a tuple is a list there.
    program = {
        name: json.loads(json.dumps(field.default))
        for name, field in Settings.model_fields.items()
        if name not in DICTATED
    }
    assert {snake(name): value for name, value in chart_values()["settings"].items()} == program


def test_the_rendered_settings_are_read_as_they_were_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: dict[str, Any] = {
        "queue": "other",
        "protected_addresses": ["10.1.69.1", "2001:db8::/64"],
        "brake_percent": 12.5,
        "look_again_after": [0.5, 90],
        "intent_lifetime": 12345678,
        "audit_apply": True,
        "events": False,
        "log_level": "debug",
        "job_timeout": 100,
    }
    objects = render({f"settings.{camel(name)}": value for name, value in changed.items()})
    for name, text in one(objects, "ConfigMap", "eip-reclaimer-settings")["data"].items():
        monkeypatch.setenv(name, text)
    texts = {"protected_addresses": ",".join(changed["protected_addresses"]), "look_again_after": "0.5,90"}
    assert load_settings() == load_settings(**{**changed, **texts})
    monkeypatch.undo()
    assert load_settings() != load_settings(**{**changed, **texts})


def test_a_setting_that_is_null_is_the_programs_default() -> None:
    data = one(render({"settings.jobTimeout": None}), "ConfigMap", "eip-reclaimer-settings")["data"]
    assert "EIP_RECLAIMER_JOB_TIMEOUT" not in data
    assert "EIP_RECLAIMER_API_TIMEOUT" in data


def test_the_schema_says_of_every_setting_what_the_program_says() -> None:
    program = {}
    for name, field in Settings.model_json_schema()["properties"].items():
        if name not in DICTATED:
            program[name] = {key: value for key, value in field.items() if key not in ("title", "default")}
    program["protected_addresses"]["items"] = {"type": "string"}
    settings = schema()["properties"]["settings"]
    assert settings["additionalProperties"] is False
    assert {snake(name): field for name, field in settings["properties"].items()} == program


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    def names(node: dict[str, Any], prefix: str = "") -> set[str]:
        if "$ref" in node:
            node = schema()["definitions"][node["$ref"].rsplit("/", 1)[1]]
        if "properties" not in node:
            return {prefix}
        assert node["additionalProperties"] is False, prefix
        return {name for key, each in node["properties"].items() for name in names(each, f"{prefix}.{key}".lstrip("."))}

    # Helm itself puts `global` in.
    assert names(schema()) - {"global"} == set(values_table.defaults())


def test_every_value_is_described_and_the_readme_has_the_table() -> None:
    assert set(values_table.defaults()) == set(values_table.descriptions())
    text = values_table.README.read_text()
    assert text == values_table.readme(text), "python -m tests.helm.values_table"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"settings.auditIntervall": 60}, "auditIntervall is not allowed"),
        ({"settings.kubeconfig": "/etc/kubeconfig"}, "kubeconfig is not allowed"),
        ({"worker": {}}, "worker is not allowed"),
        ({"workers.exec.replica": 3}, "replica is not allowed"),
        ({"settings.auditInterval": "1h"}, "settings.auditInterval: Invalid type"),
        ({"settings.jobTimeout": 40.5}, "settings.jobTimeout: Invalid type"),
        ({"settings.apiTimeout": 0}, "settings.apiTimeout: Must be greater than 0"),
        ({"settings.queue": "two words"}, "settings.queue: Does not match pattern"),
        ({"settings.logLevel": "loud"}, "settings.logLevel must be one of"),
        ({"settings.lookAgainAfter": "10,60"}, "settings.lookAgainAfter: Invalid type"),
        ({"producer.replicas": "two"}, "producer.replicas: Invalid type"),
        ({"commonLabels": {"a": 1}}, "commonLabels.a: Invalid type"),
        ({"image.digest": "latest"}, "image.digest: Does not match pattern"),
        ({"http.port": 70000}, "http.port: Must be less than or equal to 65535"),
        ({"workers.exec.enabled": False}, "workers.netlink.enabled does not match: true"),
        ({"workers.exec.enabled": False, **NETLINK, **KEDA}, 'autoscaling.kind does not match: ""'),
        ({"workers.exec.autoscaling.minReplicas": 0}, "minReplicas: Must be greater than or equal to 1"),
        ({"valkey.enabled": False}, "redis.url: String length must be greater than or equal to 1"),
        ({"redis.url": "redis://redis.example/0"}, 'redis.url does not match: ""'),
        ({"redis.existingSecret": "redis"}, 'redis.existingSecret does not match: ""'),
        ({"redis.sentinel.addresses": ["a:26379"]}, "redis.sentinel.addresses: Array must have at most 0 items"),
        ({**EXISTING, "redis.url": "redis://user:secret@redis.example/0"}, "redis.url: Does not match pattern"),
        ({**EXISTING, "redis.url": "redis.example:6379"}, "redis.url: Does not match pattern"),
        ({**EXISTING, "redis.urlKey": "url", "redis.existingSecret": "redis"}, 'redis.url does not match: ""'),
        ({"valkey.enabled": False, "redis.urlKey": "url"}, "redis.existingSecret: String length must be"),
        ({**EXISTING, "redis.tls.caSecret": "ca"}, "redis.url: Does not match pattern '^rediss://'"),
        ({**EXISTING, "redis.sentinel.addresses": ["sentinel"]}, "redis.sentinel.addresses.0: Does not match pattern"),
        (
            {"valkey.enabled": False, "redis.urlKey": "url", "redis.existingSecret": "redis", **KEDA},
            'redis.urlKey does not match: ""',
        ),
        (
            {**KEDA, "workers.exec.autoscaling.keda.trigger": "prometheus"},
            "prometheusAddress: String length must be greater than or equal to 1",
        ),
        ({"dashboard.ingress.enabled": True}, "dashboard.ingress.host: String length must be"),
        (
            {"dashboard.ingress.enabled": True, "dashboard.ingress.host": "a", "dashboard.enabled": False},
            "dashboard.enabled does not match: true",
        ),
    ],
)
def test_values_that_are_wrong_or_contradict_each_other_are_refused(values: Values, complaint: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(values)
    assert complaint in str(refused.value)


def test_keda_may_ask_prometheus_where_the_url_is_in_a_secret() -> None:
    values = {"valkey.enabled": False, "redis.urlKey": "url", "redis.existingSecret": "redis", **KEDA, **PROMETHEUS}
    assert (
        one(render(values), "ScaledObject", "eip-reclaimer-worker-exec")["spec"]["triggers"][0]["type"] == "prometheus"
    )


def test_the_chart_is_of_the_version_of_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
    assert chart["description"] == project["description"]


def test_no_value_has_a_place_for_a_password() -> None:
    # Only names of Secrets and of their keys: values are kept by Helm, and shown by `helm get values`.
    secret = {
        name
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))
    }
    assert secret <= set(DICTATED)
    assert not [name for name in values_table.defaults() if re.search("password$", name, re.IGNORECASE)]
    assert Helm()("version", "--short").startswith("v3.")
