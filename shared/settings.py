"""The settings every command shares: one typed class, read from `EIP_RECLAIMER_*`, overridden by flags.

Every default is safe on a real cluster. Durations are seconds.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import InvalidPayloadError

Network = IPv4Network | IPv6Network
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Everything an operator can set; the variable's name is `EIP_RECLAIMER_` and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="EIP_RECLAIMER_", extra="ignore", frozen=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis://, rediss:// (TLS; `?ssl_ca_certs=FILE` where its CA is not the system's) or unix://, with user, password
    and database number where needed."""
    redis_sentinels: Annotated[tuple[tuple[str, int], ...], NoDecode] = ()
    """Sentinels as HOST:PORT, separated by commas: they tell which server is the master, the URL only how to log in."""
    redis_sentinel_master: str = "mymaster"
    """What the Sentinels call the master."""
    redis_sentinel_username: str | None = None
    """User at the Sentinels, where they ask for one."""
    redis_sentinel_password: SecretStr | None = None
    """Password at the Sentinels, where they ask for one."""
    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "eip-reclaimer"
    """RQ queue of the jobs; a node's own queue is `<queue>@<node>`."""
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "eip-reclaimer"
    """Prefix of every Redis key that is not RQ's."""

    kubeconfig: Path | None = None
    """Kubeconfig file; without it the one `kubectl` would use, and where there is none the pod's ServiceAccount."""
    kube_context: str | None = None
    """Context of the kubeconfig; without it the current one."""
    api_timeout: Seconds = 15
    """How long one answer of the Kubernetes API may take."""
    list_page_size: Annotated[int, Field(ge=1, le=5000)] = 500
    """Objects per page of a list."""
    watch_timeout: Seconds = 240
    """How long one watch request runs before the API server ends it."""

    gateway_namespace: str = "kube-system"
    """Where gateway pods live when neither the EIP nor the gateway object names a namespace."""
    gateway_pod_prefix: str = "vpc-nat-gw"
    """What Kube-OVN puts before the gateway's name in the pods' `app` label."""
    gateway_container: str = "vpc-nat-gw"
    """The container of the gateway pod that commands run in."""
    external_subnet: str = "ovn-vpc-external-network"
    """The subnet of an EIP that names none (Kube-OVN's own default)."""
    vpc_interface: str = "eth0"
    """The gateway's VPC side; its addresses are never touched."""
    protected_addresses: Annotated[tuple[Network, ...], NoDecode] = ()
    """Addresses or prefixes, separated by commas, that are never taken away."""

    driver: Literal["exec", "netlink"] = "exec"
    """How workers enter gateways: `exec` over the API, `netlink` on the gateway's own node."""
    node_name: str | None = None
    """The node this worker runs on; needed by `netlink`."""
    netns_dir: Path | None = None
    """`netlink`: a directory with a namespace per pod UID, in place of looking the pod up in /proc."""
    exec_timeout: Seconds = 15
    """`exec`: how long a gateway may take to answer."""

    brake_minimum: Annotated[int, Field(ge=0)] = 10
    """One list may always release this many EIPs."""
    brake_percent: Annotated[float, Field(ge=0, le=100)] = 20
    """One list may release this share of the known EIPs, where that is more than the minimum."""
    brake_recheck: Seconds = 15
    """How often the API is listed again while the brake is engaged."""

    look_again_after: Annotated[tuple[Seconds, ...], NoDecode] = (10, 60)
    """When the release of an EIP that was never ready is acted on and looked at again, counted from its deletion."""
    hold_limit: Seconds = 30
    """How long a gateway's releases wait for an EIP of it that has no address yet."""
    intent_lifetime: Seconds = 3600
    """How long an address that was taken away is remembered, so that a late owner gets it back."""
    audit_interval: Annotated[float, Field(ge=0)] = 3600
    """How often every gateway is audited; 0 is never."""
    audit_apply: bool = False
    """Whether these audits release what nobody owns; without it they report it, so that what leaked before the
    installation is looked at by a person first."""
    audit_pause: Seconds = 2
    """An address is a leak only when seen unowned twice, this far apart."""
    stuck_after: Seconds = 300
    """An EIP is reported as stuck when it has been terminating, or without an address, for so long."""

    gateways_at_once: Annotated[int | None, Field(ge=1, le=64)] = None
    """How many gateways one worker works on at the same time: while one answers it goes on with the others. Without it
    8 with `exec`, which mostly waits, and 4 with `netlink`."""
    lock_lifetime: Annotated[float, Field(ge=2)] = 30
    """A gateway's lock frees itself after this."""
    busy_pause: Seconds = 1
    """How soon a job is tried again whose gateway another worker holds, or that waits for an EIP's address."""
    retry_attempts: Annotated[int, Field(ge=1)] = 8
    """How often a job is tried in all when errors are transient."""
    retry_base: Seconds = 2
    """The first pause before a retry; every further one is twice as long, with jitter."""
    retry_ceiling: Seconds = 300
    """No pause before a retry is longer."""
    job_timeout: Annotated[int, Field(ge=5)] = 40
    """No run of a job takes longer; a killed worker's job is taken over soon after."""
    history_days: Annotated[float, Field(gt=0)] = 7
    """How long the record of a finished release is kept; failed ones are kept for a year, or until replayed."""

    dashboard_host: str = "127.0.0.1"
    """Address the dashboard listens on."""
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = 9181
    """TCP port the dashboard listens on."""
    dashboard_password: SecretStr | None = None
    """Who has it may act in the dashboard; without one the dashboard only shows."""
    dashboard_trusted_proxy: str | None = None
    """Address of the reverse proxy before the dashboard, whose X-Forwarded-For and X-Forwarded-Proto are believed."""

    http: Annotated[tuple[str, int] | None, NoDecode] = None
    """HOST:PORT where a producer or worker tells its metrics and its health (/metrics, /healthz, /readyz), as
    0.0.0.0:9464; port 0 takes a free one, and nothing is served where it is empty."""
    events: bool = True
    """Whether Kubernetes Events tell of what became of gateways' and EIPs' releases."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto` is readable on a terminal and JSON elsewhere."""

    @field_validator("protected_addresses", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(ip_network(part, strict=False) for part in _parts(value))
        return value

    @field_validator("look_again_after", mode="before")
    @classmethod
    def _ascending_seconds(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(map(float, _parts(value)))
        return tuple(sorted(value))

    @field_validator("redis_sentinels", mode="before")
    @classmethod
    def _hosts_and_ports(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(map(_host_and_port, _parts(value)))
        return value

    @field_validator("http", mode="before")
    @classmethod
    def _place_or_none(cls, value: Any) -> Any:
        return (_host_and_port(value) if value else None) if isinstance(value, str) else value

    @field_validator(
        "kubeconfig",
        "netns_dir",
        "kube_context",
        "node_name",
        "gateways_at_once",
        "redis_sentinel_username",
        "redis_sentinel_password",
        "dashboard_password",
        "dashboard_trusted_proxy",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def threads(self) -> int:
        """How many gateways a worker works on at the same time."""
        # More computing threads than that only wait for one another (benchmarks/results.md).
        return self.gateways_at_once or {"exec": 8, "netlink": 4}[self.driver]

    def protects(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the operator listed this address as never to be touched."""
        return any(address in network for network in self.protected_addresses if network.version == address.version)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def load_settings(**flags: Any) -> Settings:
    """The settings from the environment, overridden by the flags that are not None.

    Raises:
        InvalidPayloadError: a variable or flag has no valid value; the message names each.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"EIP_RECLAIMER_{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors()
        )
        raise InvalidPayloadError(f"settings are not valid: {problems}") from None
