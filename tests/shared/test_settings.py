"""Settings: read from the environment, overridden by flags, refused with the variable that is wrong."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InvalidPayloadError
from shared.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EIP_RECLAIMER_{name.upper()}", raising=False)


def test_variables_override_defaults_and_flags_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().queue == "eip-reclaimer"
    monkeypatch.setenv("EIP_RECLAIMER_QUEUE", "from-variable")
    assert load_settings().queue == "from-variable"
    assert load_settings(queue="from-flag").queue == "from-flag"
    assert load_settings(queue=None).queue == "from-variable"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIP_RECLAIMER_KUBECONFIG", "")
    monkeypatch.setenv("EIP_RECLAIMER_NODE_NAME", "")
    assert (load_settings().kubeconfig, load_settings().node_name) == (None, None)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kubeconfig", "/etc/kubeconfig", Path("/etc/kubeconfig")),
        ("look_again_after", "60, 10", (10.0, 60.0)),
        ("look_again_after", "", ()),
        ("brake_percent", "12.5", 12.5),
        ("driver", "netlink", "netlink"),
        ("http", "0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("http", "[::]:0", ("::", 0)),
        ("http", "", None),
        ("events", "false", False),
    ],
)
def test_a_variable_is_read_as_what_it_means(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"EIP_RECLAIMER_{name.upper()}", text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("driver", "ssh"),
        ("queue", "two words"),
        ("key_prefix", "a*"),
        ("brake_percent", "101"),
        ("brake_minimum", "-1"),
        ("api_timeout", "0"),
        ("retry_attempts", "many"),
        ("lock_lifetime", "1"),
        ("look_again_after", "10,soon"),
        ("look_again_after", "-1"),
        ("protected_addresses", "10.1.69.300"),
        ("list_page_size", "0"),
        ("log_level", "loud"),
        ("http", "9464"),
        ("http", ":9464"),
        ("http", "localhost:65536"),
        ("events", "sometimes"),
    ],
)
def test_a_value_that_is_none_is_refused_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"EIP_RECLAIMER_{name.upper()}", text)
    with pytest.raises(InvalidPayloadError, match=f"EIP_RECLAIMER_{name.upper()}: "):
        load_settings()


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIP_RECLAIMER_DRIVER", "ssh")
    monkeypatch.setenv("EIP_RECLAIMER_LOG_LEVEL", "loud")
    with pytest.raises(InvalidPayloadError, match=r"EIP_RECLAIMER_DRIVER.*EIP_RECLAIMER_LOG_LEVEL"):
        load_settings()


def test_the_password_is_in_no_text_of_the_settings() -> None:
    settings = load_settings(redis_url="redis://user:hunter2@redis:6379/0")
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    with pytest.raises(InvalidPayloadError) as refused:
        load_settings(redis_url=["redis://user:hunter2@redis:6379/0"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "protected"),
    [("10.1.69.7", True), ("10.1.69.8", False), ("10.2.0.9", True), ("fd00::7", True), ("fd01::7", False)],
)
def test_addresses_and_prefixes_are_protected(address: str, protected: Any) -> None:
    settings = load_settings(protected_addresses="10.1.69.7, 10.2.0.0/24, fd00::/64")
    assert settings.protects(ip_address(address)) is protected
