"""What the chart renders: whether it is one, says what the program and the documents say, and keeps secrets secret."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import yaml
from redis import Redis
from rq import Queue

from shared.metrics import CATALOGUE
from shared.settings import Settings, load_settings
from tests.helm.chart import (
    CASES,
    CHART,
    EXISTING,
    KEDA,
    NAMESPACE,
    NETLINK,
    OPTIONS,
    ROOT,
    Helm,
    Object,
    Values,
    of_kind,
    one,
    pods,
    render,
    variables,
)
from tests.helm.environment import environment

EVERYTHING: Values = {
    **NETLINK,
    **KEDA,
    **OPTIONS["network-policies"],
    **OPTIONS["monitoring"],
    **OPTIONS["dashboard-ingress"],
}
PROGRAM = ("producer", "worker-exec", "worker-netlink", "dashboard")


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_made_of_distinct_named_objects_with_the_charts_labels(case: str) -> None:
    objects = render(CASES[case])
    named = Counter((each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects)
    assert set(named.values()) == {1}
    for each in objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "eip-reclaimer"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert len(each["metadata"]["name"]) <= 63
        assert CASES[case].get("commonLabels", {}).items() <= labels.items()
    for pod in pods(objects).values():
        assert CASES[case].get("commonLabels", {}).items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("mode", ["exec", "netlink", "both"])
def test_the_chart_is_without_fault_for_helm(mode: str) -> None:
    assert "0 chart(s) failed" in Helm()("lint", "--strict", CHART, values=CASES[f"{mode}-defaults"])


def test_names_stay_valid_however_long_the_releases_name_is() -> None:
    for each in render(EVERYTHING, release="r" * 53):
        assert len(each["metadata"]["name"]) <= 63


@pytest.mark.parametrize("mode", ["exec", "netlink", "both"])
def test_workers_are_those_of_the_mode(mode: str) -> None:
    objects = render(CASES[f"{mode}-defaults"])
    drivers = {name: variables(pod).get("EIP_RECLAIMER_DRIVER") for name, pod in pods(objects).items()}
    wanted = {"eip-reclaimer-worker-exec": "exec", "eip-reclaimer-worker-netlink": "netlink"}
    chosen = {name: driver for name, driver in wanted.items() if mode in (driver, "both")}
    assert {name: driver for name, driver in drivers.items() if driver} == chosen
    netlink = pods(objects).get("eip-reclaimer-worker-netlink")
    if netlink is not None:
        assert variables(netlink)["EIP_RECLAIMER_NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


# Redis.


def given(objects: list[Object], pod: Object) -> Settings:
    """The settings that the pod's program reads, with these passwords in Secrets that the chart does not make."""
    theirs = {
        "redis": {
            "password": "pass-word",
            "sentinel-password": "watched",
            "url": "rediss://u:p@elsewhere.example:6380/1?ssl_ca_certs=/etc/eip-reclaimer/redis/ca.crt",
        }
    }

    def read(kind: str, name: str) -> Object:
        if kind == "Secret" and name in theirs:
            return {"data": {key: base64.b64encode(text.encode()).decode() for key, text in theirs[name].items()}}
        return one(objects, kind, name)

    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"EIP_RECLAIMER_{name.upper()}", raising=False)
        with_node = {**pod, "spec": {**pod["spec"], "nodeName": "node-a"}}
        for name, text in environment(with_node, read, of_kind(objects, "Service")).items():
            patch.setenv(name, text)
        return load_settings()


@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("existing-redis", "redis://redis.example:6379/0"),
        (
            "existing-redis-acl-tls",
            "rediss://eip-reclaimer:pass-word@redis.example:6380/3?ssl_ca_certs=/etc/eip-reclaimer/redis/ca.crt",
        ),
        (
            "existing-redis-url-in-secret",
            "rediss://u:p@elsewhere.example:6380/1?ssl_ca_certs=/etc/eip-reclaimer/redis/ca.crt",
        ),
        ("sentinels", "redis://:pass-word@/0"),
    ],
)
def test_every_process_gets_the_url_of_an_existing_redis(option: str, url: str) -> None:
    objects = render({**OPTIONS[option], **NETLINK})
    assert not of_kind(objects, "StatefulSet")
    for pod in pods(objects).values():
        settings = given(objects, pod)
        assert settings.redis_url.get_secret_value() == url
        assert bool(settings.redis_sentinels) == (option == "sentinels")
    if option == "sentinels":
        assert settings.redis_sentinels == (("sentinel-0", 26379), ("sentinel-1", 26379))
        assert settings.redis_sentinel_username == "watcher"
        assert settings.redis_sentinel_password is not None
        assert settings.redis_sentinel_password.get_secret_value() == "watched"


def test_a_ca_is_mounted_where_the_url_says() -> None:
    for pod in pods(render({**OPTIONS["existing-redis-acl-tls"], **NETLINK})).values():
        (container,) = pod["spec"]["containers"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "redis-ca"]
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "redis-ca"]
        assert mount == {"name": "redis-ca", "mountPath": "/etc/eip-reclaimer/redis", "readOnly": True}
        assert volume["secret"] == {"secretName": "redis-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}


def test_every_process_gets_the_url_of_the_bundled_server_with_the_generated_password() -> None:
    objects = render(NETLINK)
    encoded = one(objects, "Secret", "eip-reclaimer-valkey")["data"]["password"]
    password = base64.b64decode(encoded).decode()
    assert re.fullmatch("[A-Za-z0-9]{32}", password)
    program = {name: pod for name, pod in pods(objects).items() if name != "eip-reclaimer-valkey"}
    for pod in program.values():
        url = given(objects, pod).redis_url.get_secret_value()
        assert url == f"redis://eip-reclaimer:{password}@eip-reclaimer-valkey:6379/0"
    text = json.dumps([each for each in objects if each["kind"] != "Secret"])
    assert password not in text
    assert encoded not in text


@pytest.mark.parametrize("case", CASES)
def test_passwords_come_from_secrets_only(case: str) -> None:
    objects = render(CASES[case])
    for pod in pods(objects).values():
        for name, value in variables(pod).items():
            if "PASSWORD" in name:
                assert "secretKeyRef" in value, name
        assert "PASSWORD" not in json.dumps([pod["spec"]["containers"][0].get(key) for key in ("command", "args")])
    for config in of_kind(objects, "ConfigMap"):
        assert not [name for name in config["data"] if "PASSWORD" in name or "REDIS_URL" in name]


@pytest.mark.parametrize("case", CASES)
def test_variables_of_services_are_not_taken_for_settings(case: str) -> None:
    # A Service eip-reclaimer-dashboard would make EIP_RECLAIMER_DASHBOARD_PORT=tcp://… in every pod.
    objects = render(CASES[case])
    for name, pod in pods(objects).items():
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_without_that_they_would_be() -> None:
    objects = render()
    pod = pods(objects)["eip-reclaimer-producer"]
    del pod["spec"]["enableServiceLinks"]
    with pytest.raises(Exception, match="EIP_RECLAIMER_DASHBOARD_PORT"):
        given(objects, pod)


def test_the_bundled_servers_user_may_do_what_the_documents_say() -> None:
    (line,) = re.findall("^    (user eip-reclaimer on .*)$", (ROOT / "docs" / "redis.md").read_text(), re.MULTILINE)
    script = one(render(), "ConfigMap", "eip-reclaimer-valkey")["data"]["start.sh"]
    assert line.replace("PASSWORD", "$VALKEY_PASSWORD") in script.splitlines()
    other = one(render({"settings.keyPrefix": "other"}), "ConfigMap", "eip-reclaimer-valkey")["data"]["start.sh"]
    ours = line.replace("PASSWORD", "$VALKEY_PASSWORD").replace("~eip-reclaimer:*", "~other:*")
    assert ours in other.splitlines()


# Upgrades.


def checksum(values: Values, name: str) -> dict[str, str]:
    """The annotations of a pod, a change of which replaces it."""
    annotations: dict[str, str] = pods(render({**NETLINK, **values}))[f"eip-reclaimer-{name}"]["metadata"][
        "annotations"
    ]
    return annotations


@pytest.mark.parametrize("part", PROGRAM)
def test_changed_settings_replace_the_pods_and_nothing_else_does(part: str) -> None:
    assert checksum({"settings.auditInterval": 60}, part) != checksum({}, part)
    assert checksum({"producer.replicas": 3}, part) == checksum({}, part)


def test_the_server_is_not_replaced_by_changed_settings() -> None:
    def template(values: Values) -> Any:
        return pods(render(values))["eip-reclaimer-valkey"]

    assert template({"settings.auditInterval": 60, "image.tag": "2.0.0"}) == template({})
    assert template({"valkey.extraConfig": "maxclients 500"}) != template({})


def test_new_pods_begin_before_old_ones_end() -> None:
    objects = render(NETLINK)
    for name in ("eip-reclaimer-producer", "eip-reclaimer-worker-exec"):
        assert one(objects, "Deployment", name)["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": 1,
            "maxUnavailable": 0,
        }
    update = one(objects, "DaemonSet", "eip-reclaimer-worker-netlink")["spec"]["updateStrategy"]
    assert update == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize(("timeout", "grace"), [(None, 60), (40, 60), (300, 320)])
def test_workers_have_longer_to_end_than_a_job_may_take(timeout: int | None, grace: int) -> None:
    found = pods(render({**NETLINK, "settings.jobTimeout": timeout}))
    for name in ("eip-reclaimer-worker-exec", "eip-reclaimer-worker-netlink"):
        assert found[name]["spec"]["terminationGracePeriodSeconds"] == grace
    assert Settings.model_fields["job_timeout"].default == 40


# Who is meant.


def matches(selector: Object, pod: Object) -> bool:
    """Whether a LabelSelector selects a pod."""
    labels = pod["metadata"]["labels"]
    for each in selector.get("matchExpressions", ()):
        there = labels.get(each["key"]) in each["values"]
        if there != (each["operator"] == "In"):
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def selected(objects: list[Object], selector: Object) -> set[str]:
    """The pods that a selector means, without the beginning of their names."""
    return {name.removeprefix("eip-reclaimer-") for name, pod in pods(objects).items() if matches(selector, pod)}


def test_every_selector_means_the_pods_it_should() -> None:
    objects = render(EVERYTHING)
    for each in of_kind(objects, "Deployment", "DaemonSet", "StatefulSet"):
        component = each["metadata"]["name"].removeprefix("eip-reclaimer-")
        assert selected(objects, each["spec"]["selector"]) == {component}
    for each in of_kind(objects, "Service"):
        component = each["metadata"]["name"].removeprefix("eip-reclaimer-")
        assert selected(objects, {"matchLabels": each["spec"]["selector"]}) == {component}
    for each in of_kind(objects, "PodDisruptionBudget"):
        component = each["metadata"]["name"].removeprefix("eip-reclaimer-")
        assert selected(objects, each["spec"]["selector"]) == {component}
    monitor = one(objects, "PodMonitor", "eip-reclaimer")
    told = {"producer", "worker-exec", "worker-netlink"}
    assert selected(objects, monitor["spec"]["selector"]) == told
    everybody = {*PROGRAM, "valkey", "test"}
    assert set(pods(objects)) == {f"eip-reclaimer-{name}" for name in everybody}
    policies = {
        each["metadata"]["name"]: selected(objects, each["spec"]["podSelector"])
        for each in of_kind(objects, "NetworkPolicy")
    }
    assert policies == {
        "eip-reclaimer": everybody,
        "eip-reclaimer-api": told,
        "eip-reclaimer-redis": everybody - {"valkey"},
        "eip-reclaimer-valkey": {"valkey"},
        "eip-reclaimer-dashboard": {"dashboard"},
    }


def test_ports_that_are_named_are_there() -> None:
    objects = render(EVERYTHING)
    ports = {
        name: {port["name"] for port in pod["spec"]["containers"][0].get("ports", ())}
        for name, pod in pods(objects).items()
    }
    for name, pod in pods(objects).items():
        (container,) = pod["spec"]["containers"]
        for probe in (container.get("livenessProbe", {}), container.get("readinessProbe", {})):
            for kind in ("httpGet", "tcpSocket"):
                assert probe.get(kind, {}).get("port", "http") in ports[name] | {"http"}
                if kind in probe:
                    assert probe[kind]["port"] in ports[name]
    for service in of_kind(objects, "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[service["metadata"]["name"]]


def test_valkey_lets_in_this_release_and_keda_where_that_asks() -> None:
    def sources(values: Values) -> list[Object]:
        policy = one(render({"networkPolicy.enabled": True, **values}), "NetworkPolicy", "eip-reclaimer-valkey")
        (rule,) = policy["spec"]["ingress"]
        found: list[Object] = rule["from"]
        return found

    ours, keda = sources(KEDA)
    assert sources({}) == [ours]
    assert keda == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    assert "user keda" in one(render(KEDA), "ConfigMap", "eip-reclaimer-valkey")["data"]["start.sh"]
    assert "user keda" not in one(render(), "ConfigMap", "eip-reclaimer-valkey")["data"]["start.sh"]


# Scaling.


def test_keda_asks_for_the_length_of_rqs_queue() -> None:
    objects = render({**KEDA, "settings.queue": "ours"})
    scaled = one(objects, "ScaledObject", "eip-reclaimer-worker-exec")["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "redis"
    assert trigger["metadata"]["listName"] == Queue("ours", connection=Redis()).key
    assert trigger["metadata"]["address"] == f"eip-reclaimer-valkey.{NAMESPACE}.svc:6379"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    login = one(objects, "TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]["secretTargetRef"]
    assert login == [{"parameter": "password", "name": "eip-reclaimer-valkey", "key": "password"}]


def test_keda_gets_at_an_existing_redis_as_the_program_does() -> None:
    objects = render({**KEDA, **OPTIONS["existing-redis-acl-tls"]})
    (trigger,) = one(objects, "ScaledObject", "eip-reclaimer-worker-exec")["spec"]["triggers"]
    wanted = {"address": "redis.example:6380", "databaseIndex": "3", "enableTLS": "true", "username": "eip-reclaimer"}
    assert wanted.items() <= trigger["metadata"].items()
    login = one(objects, "TriggerAuthentication", "eip-reclaimer-worker-exec")["spec"]["secretTargetRef"]
    assert {each["parameter"]: (each["name"], each["key"]) for each in login} == {
        "password": ("redis", "password"),
        "ca": ("redis-ca", "ca.crt"),
    }
    (trigger,) = one(render({**KEDA, **OPTIONS["sentinels"]}), "ScaledObject", "eip-reclaimer-worker-exec")["spec"][
        "triggers"
    ]
    assert trigger["type"] == "redis-sentinel"
    assert trigger["metadata"]["addresses"] == "sentinel-0:26379,sentinel-1:26379"
    (trigger,) = one(render({**KEDA, **EXISTING}), "ScaledObject", "eip-reclaimer-worker-exec")["spec"]["triggers"]
    assert "authenticationRef" not in trigger


@pytest.mark.parametrize("kind", ["", "hpa", "keda"])
def test_the_number_of_workers_is_left_to_what_scales_them(kind: str) -> None:
    objects = render({"workers.exec.autoscaling.kind": kind})
    spec = one(objects, "Deployment", "eip-reclaimer-worker-exec")["spec"]
    assert ("replicas" in spec) == (kind == "")
    for each in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        assert each["spec"]["scaleTargetRef"]["name"] == "eip-reclaimer-worker-exec"


# Monitoring.


def test_the_alerts_are_those_of_the_documents() -> None:
    (block,) = re.findall(
        "^```yaml\n(groups:\n.*?)^```$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert (CHART / "alerts.yaml").read_text() == block
    objects = render(
        {"monitoring.prometheusRule.enabled": True, "monitoring.prometheusRule.alertLabels": {"severity": "page"}}
    )
    rendered = one(objects, "PrometheusRule", "eip-reclaimer")["spec"]["groups"]
    wanted = yaml.safe_load(block)["groups"]
    for group in wanted:
        for rule in group["rules"]:
            rule["labels"] = {"severity": "page"}
    assert rendered == wanted
    one_only = render({"monitoring.prometheusRule.enabled": True})
    assert one(one_only, "PrometheusRule", "eip-reclaimer")["spec"]["groups"][0]["rules"][0]["labels"] == {
        "severity": "warning"
    }


def dashboard() -> dict[str, Any]:
    objects = render({"monitoring.grafanaDashboard.enabled": True})
    config = one(objects, "ConfigMap", "eip-reclaimer-grafana")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    found: dict[str, Any] = json.loads(config["data"]["eip-reclaimer.json"])
    return found


def expressions() -> Iterable[str]:
    for panel in dashboard()["panels"]:
        assert panel["type"] == "row" or panel["targets"]
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def alerts() -> Iterable[str]:
    for group in yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("queries", [expressions, alerts])
def test_every_query_is_of_metrics_labels_and_values_that_there_are(queries: Any) -> None:
    asked = list(queries())
    assert len(asked) > 10
    for query in asked:
        for name, selector in re.findall(r"(eip_reclaimer_[a-z_]+)(?:\{([^}]*)\})?", query):
            metric = CATALOGUE.get(name) or CATALOGUE[re.sub("_(bucket|sum|count)$", "", name)]
            assert (metric.name == name) == (metric.type != "histogram"), query
            for label, operator, value in re.findall(r'(\w+)(=~|=|!=|!~)"([^"]*)"', selector):
                if label == "namespace":  # what the Prometheus operator adds to each target
                    continue
                assert operator in ("=", "=~"), query
                assert set(value.split("|")) <= set(metric.labels[label]), query
            for label in re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))):
                assert label == "le" or label in metric.labels, query


def test_every_panel_has_its_place_and_says_what_it_shows() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
