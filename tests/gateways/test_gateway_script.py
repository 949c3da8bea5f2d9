"""The script that runs in the container, on its own: what it obeys, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateways import real_kernel
from workers.gateways.exec import script

if TYPE_CHECKING:
    from sandbox.netns import NetworkNamespace

pytestmark = pytest.mark.kernel


def start(netns: NetworkNamespace, wait: str = "5", *variables: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    # setsid, because a container's command is not part of the worker's session either.
    argv = netns.command(["env", *variables, "bash", "-c", script(), "gateway", wait])
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def ask(process: subprocess.Popen[str], message: str) -> str:
    """Send lines; the first line of the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(message)
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


@pytest.fixture
def gateway(netns: NetworkNamespace) -> NetworkNamespace:
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    netns.ip("addr", "add", "10.1.69.206/24", "dev", "net1")
    return netns


def test_it_is_short_enough_for_a_request_line() -> None:
    assert len(script()) < 4000
    assert not [line for line in script().splitlines() if line.startswith(("#", " "))]


@pytest.mark.parametrize("end", ["eof", signal.SIGTERM, signal.SIGHUP, signal.SIGINT, "silence"])
def test_a_flag_left_set_is_set_back_however_it_ends(gateway: NetworkNamespace, end: str | signal.Signals) -> None:
    process = start(gateway, "0.5")
    assert ask(process, "promote net1 1\ngo 1\n") == "done"
    assert real_kernel.promote_secondaries(gateway, "net1")
    assert process.stdin is not None
    if end == "eof":
        process.stdin.close()
    elif isinstance(end, signal.Signals):
        os.kill(process.pid, end)
    process.wait(timeout=5)
    assert not real_kernel.promote_secondaries(gateway, "net1")


def test_a_flag_that_was_set_before_stays_set(gateway: NetworkNamespace) -> None:
    gateway.run("bash", "-c", "echo 1 > /proc/sys/net/ipv4/conf/net1/promote_secondaries")
    process = start(gateway)
    assert ask(process, "promote net1 1\ngo 1\n") == "done"
    process.communicate("bye\n", timeout=5)
    assert real_kernel.promote_secondaries(gateway, "net1")


def test_it_ends_when_nobody_speaks_to_it(gateway: NetworkNamespace) -> None:
    process = start(gateway, "0.3")
    began = time.monotonic()
    assert process.wait(timeout=5) == 0
    assert time.monotonic() - began < 3
    assert "10.1.69.205/24" in gateway.ip("addr")


def test_steps_that_are_not_all_there_are_not_begun(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    assert ask(process, "del net1 10.1.69.206/24\ngo 2\n").startswith("error 1 steps arrived of 2")
    assert ask(process, "del net1 10.1.69.206/24\ngo 1; reboot\n").startswith("error")
    process.communicate("del net1 10.1.69.206/24\ngo", timeout=5)
    assert "10.1.69.206/24" in gateway.ip("addr")


def test_it_stops_at_the_first_step_that_fails_and_says_which(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    answer = ask(process, "add net1 10.1.69.9/24\nadd nope0 10.1.69.8/24\nadd net1 10.1.69.7/24\ngo 3\n")
    assert answer.startswith("error ip addr add 10.1.69.8/24 dev nope0: Cannot find device")
    assert ask(process, "del net1 10.1.69.206/24\ndel nope0 10.1.69.206/24\ngo 2\n").startswith(
        "error ip addr del 10.1.69.206/24 dev nope0: Cannot find device"
    )
    process.communicate("bye\n", timeout=5)
    addresses = gateway.ip("addr")
    assert "10.1.69.9/24" in addresses
    assert "10.1.69.7/24" not in addresses


def answer(process: subprocess.Popen[str], message: str) -> list[str]:
    """Send lines; the whole answer."""
    lines = [ask(process, message)]
    while lines[-1].split(" ")[0] not in ("done", "error"):
        lines.append(ask(process, ""))
    return lines


def test_what_is_there_after_the_steps_is_what_a_look_shows_then(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    before = answer(process, "read\n")
    for steps in ("del net1 10.1.69.206/24\ngo 1", "promote net1 1\nadd net1 10.1.69.206/24\npromote net1 0\ngo 3"):
        shown = answer(process, f"{steps} read\n")
        assert shown == answer(process, "read\n")
        assert shown[-1] == "done"
        assert ("10.1.69.206" in "".join(shown)) == ("10.1.69.206/24" in gateway.ip("addr"))
    assert shown == before


def shown_at_once(process: subprocess.Popen[str], message: str) -> list[str]:
    """Send lines; what the standing `ip` answers, `done` put at its end and the knobs where `read` has them."""
    lines = [ask(process, message)]
    while sum(line.startswith("[") for line in lines) < 2:
        if lines[-1].split(" ")[0] in ("ended", "error"):
            return lines
        lines.append(ask(process, ""))
    assert lines[-3] == "asked"
    return [*lines[-2:], *lines[:-3], "done"]


def named(shown: list[str]) -> tuple[list[str], list[str]]:
    """Addresses and routes of IPv4, each beside its interface; those of IPv6 come and go by themselves."""
    links, routes = json.loads(shown[0]), json.loads(shown[1])
    return (
        [
            f"{link['ifname']} {info['local']}"
            for link in links
            for info in link["addr_info"]
            if ":" not in info["local"]
        ],
        [f"{route['dev']} {route['dst']}" for route in routes if ":" not in route["dst"]],
    )


def test_the_standing_ip_shows_the_same(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    before = answer(process, "read\n")
    assert shown_at_once(process, "show\n") == before
    for steps in ("del net1 10.1.69.206/24\ngo 1", "promote net1 1\nadd net1 10.1.69.206/24\npromote net1 0\ngo 3"):
        shown = shown_at_once(process, f"{steps} show\n")
        assert shown == answer(process, "read\n")
        assert ("10.1.69.206" in "".join(shown)) == ("10.1.69.206/24" in gateway.ip("addr"))
    assert shown == before


def test_the_standing_ip_sees_what_others_change(gateway: NetworkNamespace) -> None:
    """It keeps names of interfaces, and net1 may be another one by the next look."""
    process = start(gateway)
    shown_at_once(process, "show\n")
    gateway.ip("link", "set", "net1", "down")
    gateway.ip("link", "set", "net1", "name", "old1")
    gateway.ip("link", "add", "net1", "type", "veth", "peer", "name", "far1")
    for link in ("net1", "old1"):
        gateway.ip("link", "set", link, "up")
    gateway.ip("addr", "add", "10.1.69.206/24", "dev", "net1")
    for message in ("show\n", "del net1 10.1.69.206/24\ngo 1 show\n"):
        assert named(shown_at_once(process, message)) == named(answer(process, "read\n"))
    assert "10.1.69.206/24" not in gateway.ip("addr", "show", "dev", "net1")
    assert "10.1.69.206/24" in gateway.ip("addr", "show", "dev", "old1")


def test_the_standing_ip_says_that_it_ended_and_the_steps_are_carried_out_without_it(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    steps = "del net1 10.1.69.206/24\ndel net1 10.1.69.207/24\ndel net1 10.1.69.205/24\ngo 3"
    said = shown_at_once(process, f"{steps} show\n")
    assert said[-1] == "ended"
    addresses = gateway.ip("addr")
    assert "10.1.69.206/24" not in addresses
    assert "10.1.69.205/24" in addresses
    shown = answer(process, f"{steps} read\n")
    assert shown == answer(process, "read\n")
    assert "10.1.69.205/24" not in gateway.ip("addr")


def test_a_step_that_is_none_is_told_and_nothing_shown_at_once(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    assert shown_at_once(process, "reboot\ngo 1 show\n") == ["error not a step: reboot"]
    assert shown_at_once(process, "del net1 10.1.69.205/24\ngo 2 show\n") == ["error 1 steps arrived of 2 show"]
    assert shown_at_once(process, "go 0 show; reboot\n") == ["error 0 steps arrived of 0 show; reboot"]
    assert "10.1.69.205/24" in gateway.ip("addr")


def test_what_the_containers_environment_has_is_nothing_to_it(gateway: NetworkNamespace) -> None:
    flush = "addr flush dev net1"
    names = ("standing", "unused", "gathered", "steps", "former", "last", "last_word", "lists", "text")
    process = start(gateway, "5", *(f"{name}={flush}" for name in names))
    before = real_kernel.everything(gateway)
    assert shown_at_once(process, "show\n") == answer(process, "read\n") == shown_at_once(process, "show\n")
    assert answer(process, "go 0 read\n") == answer(process, "read\n")
    assert ask(process, "go 0 sho\n") == "error 0 steps arrived of 0 sho"
    assert real_kernel.everything(gateway) == before


@pytest.mark.parametrize("end", ["bye", signal.SIGKILL])
def test_the_standing_ip_ends_with_the_script(gateway: NetworkNamespace, end: str | signal.Signals) -> None:
    process = start(gateway)
    shown_at_once(process, "show\n")
    if isinstance(end, signal.Signals):
        os.kill(process.pid, end)
    # Output comes to its end when the last one that could write to it has ended.
    assert process.communicate("bye\n" if end == "bye" else None, timeout=5)[0] == ""


def test_steps_that_are_done_already_are_shown_too(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    shown = answer(process, "del net1 10.1.69.207/24\nadd net1 10.1.69.206/24\nadd net1 10.1.69.208/24\ngo 3 read\n")
    assert shown == answer(process, "read\n")
    assert "10.1.69.207" not in "".join(shown)
    assert all(address in "".join(shown) for address in ("10.1.69.206", "10.1.69.208"))


def test_a_step_that_fails_is_told_and_nothing_shown(gateway: NetworkNamespace) -> None:
    process = start(gateway)
    (said,) = answer(process, "del net1 10.1.69.206/24\nadd nope0 10.1.69.8/24\ngo 2 read\n")
    assert said.startswith("error ip addr add 10.1.69.8/24 dev nope0: Cannot find device")
    (said,) = answer(process, "del net1 10.1.69.205/24\ngo 2 read\n")
    assert said.startswith("error 1 steps arrived of 2")
    (said,) = answer(process, "go 1 read; reboot\n")
    assert said.startswith("error 0 steps arrived of 1 read; reboot")
    assert "10.1.69.205/24" in gateway.ip("addr")


@pytest.mark.parametrize(
    "line",
    [
        "del net1 10.1.69.206/24; reboot",
        "del net1 $(touch /tmp/x)/24",
        "del net1 10.1.69.206",
        "del net1  10.1.69.206/24",
        "del * 10.1.69.206/24",
        "del -force 10.1.69.206/24",
        "del ../net1 10.1.69.206/24",
        "promote ../../../../kernel 1",
        "promote net1 2",
        "promote net1",
        "route 4 default net1 - - 3 0 254 - -; x",
        "route 4 default net1 - - 3 0 254 -",
        "route 5 default net1 - - 3 0 254 - -",
        "addr flush dev net1",
        "",
        "read ",
        "\x01",
    ],
)
def test_a_line_of_another_shape_keeps_all_steps_from_being_done(gateway: NetworkNamespace, line: str) -> None:
    process = start(gateway)
    assert ask(process, f"del net1 10.1.69.206/24\n{line}\ngo 2\n").startswith("error not a step")
    process.communicate("bye\n", timeout=5)
    assert "10.1.69.206/24" in gateway.ip("addr")


@given(
    lines=st.lists(
        st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"])), min_size=1, max_size=30
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_noise_changes_anything(gateway: NetworkNamespace, lines: list[str]) -> None:
    before = real_kernel.everything(gateway)
    process = start(gateway)
    process.communicate("\n".join([*lines, f"go {len(lines)}", "bye", ""]), timeout=10)
    assert process.returncode == 0
    assert real_kernel.everything(gateway) == before
