"""What is in force, where each value comes from, and that no secret is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.settings import written
from shared.settings import Settings, load_settings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command with these variables of ours only; there is neither a Redis server nor a cluster."""

    def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        around = {name: value for name, value in os.environ.items() if not name.upper().startswith("EIP_RECLAIMER_")}
        return subprocess.run(
            [sys.executable, "-m", "cli", "settings", *arguments],
            env={**around, "HOME": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_command


def test_every_setting_is_shown_with_its_default(run: Run) -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head == ["VARIABLE", "VALUE", "FROM"]
    assert [variable for variable, _, _ in rows] == [f"EIP_RECLAIMER_{name.upper()}" for name in Settings.model_fields]
    assert {origin for _, _, origin in rows} == {"default"}
    assert ["EIP_RECLAIMER_LOOK_AGAIN_AFTER", "10,60", "default"] in rows
    assert ["EIP_RECLAIMER_HTTP", "-", "default"] in rows
    assert run("--changed").stdout == "every setting is its default\n"


def test_a_flag_counts_more_than_a_variable_and_that_more_than_the_default(run: Run) -> None:
    around = {"EIP_RECLAIMER_DRIVER": "netlink", "eip_reclaimer_queue": "other", "EIP_RECLAIMER_HTTP": "[::]:9464"}
    told = json.loads(run("--json", "--changed", "--driver", "exec", **around).stdout)
    assert told == {
        "settings": {
            "EIP_RECLAIMER_QUEUE": {"value": "other", "from": "environment"},
            "EIP_RECLAIMER_DRIVER": {"value": "exec", "from": "flag"},
            "EIP_RECLAIMER_HTTP": {"value": "[::]:9464", "from": "environment"},
        },
        "unknown": [],
    }


def test_no_secret_is_shown(run: Run) -> None:
    secrets = {
        "EIP_RECLAIMER_REDIS_URL": "rediss://user:hunter2@redis:6380/1?ssl_ca_certs=/ca.pem",
        "EIP_RECLAIMER_REDIS_SENTINEL_PASSWORD": "hunter2",
        # One that looks like a URL is a password all the same.
        "EIP_RECLAIMER_DASHBOARD_PASSWORD": "redis://hunter2",
    }
    for arguments in ((), ("--json",), ("--changed",)):
        done = run(*arguments, **secrets)
        assert done.returncode == 0
        assert "hunter2" not in done.stdout + done.stderr
    shown = [line.split("\t")[1] for line in run("--changed", **secrets).stdout.splitlines()[1:]]
    assert shown == ["rediss://user:***@redis:6380/1?ssl_ca_certs=/ca.pem", "***", "***"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://user@redis/0", "redis://user@redis/0"),
        ("redis://:secret@[fd00::1]:6379", "redis://:***@[fd00::1]:6379"),
        ("unix://user:secret@/run/redis.sock?db=1", "unix://user:***@/run/redis.sock?db=1"),
        ("redis://redis/0?password=secret", "redis://redis/0?password=***"),
        ("redis://:sec/ret@redis/0", "***"),
        ("redis://:sec#ret@redis/0", "***"),
        ("redis://:sec?ret@redis/0", "***"),
        ("redis://user:secret/", "***"),
        ("user:secret@redis", "***"),
        ("secret", "***"),
    ],
)
def test_a_url_is_shown_without_its_password_or_not_at_all(url: str, shown: str) -> None:
    assert written("redis_url", load_settings(redis_url=url).redis_url) == shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis_sentinels", "one:26379,two:26379"),
        ("protected_addresses", "10.1.69.7/32,fd00::/64"),
        ("look_again_after", "10,60.5"),
        ("http", "0.0.0.0:9464"),
        ("events", "false"),
        ("history_days", "1234567"),
        ("kubeconfig", "/etc/kubeconfig"),
    ],
)
def test_a_value_is_shown_as_it_is_written_into_its_variable(name: str, text: str) -> None:
    value: Any = getattr(load_settings(**{name: text}), name)
    assert written(name, value) == text


def test_a_variable_that_is_no_setting_is_told_and_one_of_kubernetes_is_not(run: Run) -> None:
    link = {
        "EIP_RECLAIMER_REDIS_SERVICE_HOST": "10.96.0.1",
        "EIP_RECLAIMER_REDIS_PORT_6379_TCP": "tcp://10.96.0.1:6379",
    }
    assert run(**link).returncode == 0
    done = run("--changed", EIP_RECLAIMER_QUEU="x", **link)
    assert (done.returncode, done.stdout) == (1, "every setting is its default\n")
    assert done.stderr == "EIP_RECLAIMER_QUEU is set, and is no setting: it does nothing. Is it misspelt?\n"
    assert json.loads(run("--json", EIP_RECLAIMER_QUEU="x").stdout)["unknown"] == ["EIP_RECLAIMER_QUEU"]


def test_a_value_that_is_none_is_refused(run: Run) -> None:
    done = run(EIP_RECLAIMER_DRIVER="ssh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "EIP_RECLAIMER_DRIVER: Input should be 'exec' or 'netlink'" in done.stderr
