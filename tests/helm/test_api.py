"""What a real API server says of the chart's objects, and Pod Security admission of its pods."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path

import pytest

from tests.helm.chart import (
    CASES,
    CHART,
    NAMESPACE,
    NETLINK,
    OPTIONS,
    RELEASE,
    ROOT,
    Helm,
    HelmError,
    Object,
    of_kind,
    one,
    pods,
    render,
)
from tests.helm.cluster import DryRun, make_namespace
from tests.kube.envtest import RealApiServer

pytestmark = pytest.mark.envtest

GATEWAY_NAMESPACES = ("gateways", "tenants")


@pytest.fixture(scope="session", autouse=True)
def namespaces(operators: RealApiServer) -> None:
    for name in (NAMESPACE, *GATEWAY_NAMESPACES):
        make_namespace(operators, name)
    for level in ("privileged", "baseline", "restricted"):
        make_namespace(operators, level, {"pod-security.kubernetes.io/enforce": level})


@pytest.mark.parametrize("case", CASES)
def test_the_server_takes_every_object_as_it_is(case: str, dry_run: DryRun) -> None:
    for each in render(CASES[case]):
        dry_run.take(each)


def test_the_server_would_tell_of_a_field_that_it_does_not_know(dry_run: DryRun) -> None:
    objects = render({**NETLINK, **OPTIONS["monitoring"], **CASES["exec-keda"]})
    for kind in (
        "Deployment",
        "DaemonSet",
        "StatefulSet",
        "NetworkPolicy",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
    ):
        wrong = copy.deepcopy(of_kind(objects, kind)[0])
        wrong["spec"]["replicasss"] = 3
        with pytest.raises(RuntimeError, match="replicasss"):
            dry_run.apply(wrong)


# Pod Security.


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("exec-")])
def test_every_pod_of_the_exec_mode_passes_restricted(case: str, dry_run: DryRun) -> None:
    found = pods(render(CASES[case]))
    assert {"eip-reclaimer-producer", "eips-producer"} & set(found)
    for pod in found.values():
        assert dry_run.refusal(pod, "restricted") == ""


def test_restricted_would_refuse_pods_without_their_security_contexts(dry_run: DryRun) -> None:
    for pod in pods(render()).values():
        bare = copy.deepcopy(pod)
        bare["spec"].pop("securityContext")
        bare["spec"]["containers"][0].pop("securityContext")
        assert violations(dry_run.refusal(bare, "restricted"))


def netlink_pod() -> Object:
    return pods(render(NETLINK))["eip-reclaimer-worker-netlink"]


def violations(refusal: str) -> set[str]:
    """What Pod Security says is wrong."""
    (found,) = re.findall(r'violates PodSecurity "[a-z:]+": (.*)', refusal)
    return set(re.findall(r"(?:, )?(.+?\(.+?\))(?=, |$)", found))


CAPABILITIES = (
    'capabilities (container "worker" must not include "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE" in '
    "securityContext.capabilities.add)"
)


def test_the_netlink_mode_breaks_the_rules_that_the_documents_say_and_no_other(dry_run: DryRun) -> None:
    pod = netlink_pod()
    assert dry_run.refusal(pod, "privileged") == ""
    assert violations(dry_run.refusal(pod, "baseline")) == {
        "host namespaces (hostPID=true)",
        'forbidden AppArmor profile (container "worker" must not set AppArmor profile type to "Unconfined")',
        f"non-default {CAPABILITIES}",
    }
    assert violations(dry_run.refusal(pod, "restricted")) == {
        "host namespaces (hostPID=true)",
        'forbidden AppArmor profile (container "worker" must not set AppArmor profile type to "Unconfined")',
        f"unrestricted {CAPABILITIES}",
        'runAsNonRoot != true (pod or container "worker" must set securityContext.runAsNonRoot=true)',
        "runAsUser=0 (pod must not set runAsUser=0)",
    }


def test_the_other_pods_of_the_netlink_mode_pass_restricted(dry_run: DryRun) -> None:
    found = pods(render(CASES["netlink-defaults"]))
    del found["eip-reclaimer-worker-netlink"]
    for pod in found.values():
        assert dry_run.refusal(pod, "restricted") == ""


def test_without_what_the_documents_say_it_would_pass_baseline(dry_run: DryRun) -> None:
    pod = netlink_pod()
    context = pod["spec"]["containers"][0]["securityContext"]
    counts = [len(violations(dry_run.refusal(pod, "baseline")))]
    for taken, away in ((pod["spec"], "hostPID"), (context["capabilities"], "add"), (context, "appArmorProfile")):
        del taken[away]
        refusal = dry_run.refusal(pod, "baseline")
        counts.append(len(violations(refusal)) if refusal else 0)
    assert counts == [3, 2, 1, 0]


def test_the_netlink_mode_is_not_privileged_and_has_nothing_of_the_host_but_its_processes() -> None:
    spec = netlink_pod()["spec"]
    assert spec["hostPID"] is True
    assert not {"hostNetwork", "hostIPC"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]},
        "appArmorProfile": {"type": "Unconfined"},
    }


# Notes.


@pytest.mark.parametrize("mode", ["exec", "netlink", "both"])
@pytest.mark.parametrize("option", ["defaults", "dashboard-ingress", "dashboard-off", "valkey-without-volume"])
def test_the_notes_name_objects_that_are_there(
    mode: str, option: str, operators: RealApiServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = CASES[f"{mode}-{option}"]
    helm = Helm(operators.kubeconfig(tmp_path_factory.mktemp("helm") / "kubeconfig"))
    text = helm("install", "eip-reclaimer", CHART, "--namespace", NAMESPACE, "--dry-run=server", values=values)
    notes = text.split("\nNOTES:\n")[1]
    objects = render(values)
    for kind, name in re.findall(r"(deploy|svc|secret)(?:/| --namespace \S+ )([a-z-]+)", notes):
        one(objects, {"deploy": "Deployment", "svc": "Service", "secret": "Secret"}[kind], name)
    assert "helm test eip-reclaimer --namespace eip-reclaimer" in notes
    assert ("worker-exec -- eip-reclaimer audit" in notes) == (mode != "netlink")
    assert ("https://eips.example/" in notes) == (option == "dashboard-ingress")
    assert ("port-forward" in notes) == (option in ("defaults", "valkey-without-volume"))
    assert ("Warning: Valkey has no volume" in notes) == (option == "valkey-without-volume")


# Documents.


def commands() -> list[list[str]]:
    """Helm's commands in the documents, in their order; what is options only is those of an install."""
    found = []
    for document in (ROOT / "docs" / "kubernetes.md", CHART / "README.md"):
        text = document.read_text().replace("\\\n", " ")
        for line in re.findall(r"^    (?:\$ )?((?:helm|--set) .*)$", text, re.MULTILINE):
            words = shlex.split(line)
            found.append(
                words[1:] if words[0] == "helm" else ["template", "eip-reclaimer", "helm/eip-reclaimer", *words]
            )
    return found


def test_helm_takes_every_command_of_the_documents(real_api: RealApiServer, tmp_path: Path) -> None:
    helm = Helm(real_api.kubeconfig(tmp_path / "kubeconfig"))
    make_namespace(real_api, NAMESPACE)
    taken: dict[str, list[list[str]]] = {}
    for verb, *words in commands():
        taken.setdefault(verb, []).append([str(CHART) if word == "helm/eip-reclaimer" else word for word in words])
    for words in taken.pop("template"):
        if "settings.auditInterval=1h" not in words:
            helm("template", *words)
            continue
        with pytest.raises(HelmError) as refused:
            helm("template", *words)
        assert str(refused.value).strip() in documented_output()
    for words in taken["install"]:
        helm("install", *words, "--dry-run=server")
    for verb in ("install", "upgrade", "rollback", "uninstall"):
        first = 1 if verb == "install" else None
        for words in taken.pop(verb)[:first]:
            helm(verb, *words)
    # Its pod is run by a node, and by tests/helm/test_upgrade.py.
    assert taken == {"test": [[RELEASE, "--namespace", NAMESPACE]]}


def documented_output() -> str:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
