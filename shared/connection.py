"""Opening the Redis server: by its URL, or by asking Sentinels which server is the master now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from shared.errors import InvalidPayloadError, TransientError

if TYPE_CHECKING:
    from shared.settings import Settings

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10
"""How long one command may take; no wait for a job is longer."""


class RedisUnavailableError(TransientError):
    """The Redis server cannot be used as configured."""


def connect(settings: Settings, patience: float = ANSWER_SECONDS) -> Redis:
    """Open the Redis server of the settings and see that it answers.

    Args:
        settings: where it is.
        patience: how many seconds a command, or connecting, may take at most.

    Raises:
        InvalidPayloadError: the URL is none.
        RedisUnavailableError: nothing answers there, or it refuses us.
    """
    try:
        options = parse_url(settings.redis_url.get_secret_value())  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InvalidPayloadError(
            f"EIP_RECLAIMER_REDIS_URL is not valid: {_said(error)}. Example: redis://user:password@redis:6379/0"
        ) from None
    manners = {
        "socket_connect_timeout": min(CONNECT_SECONDS, patience),
        "socket_timeout": patience,
        "health_check_interval": 15,
        # A command is not repeated here: after a lost answer only its caller knows whether it may be.
        "retry": Retry(ExponentialBackoff(), 0),
    }
    place = _place(options, settings)
    if settings.redis_sentinels:
        redis = _by_sentinels({**manners, **options}, settings)
    else:
        redis = Redis.from_url(settings.redis_url.get_secret_value(), **manners)
    try:
        redis.ping()
    except AuthenticationError as error:
        raise RedisUnavailableError(
            f"the Redis server at {place} refuses the user or password: {_said(error)}. Check EIP_RECLAIMER_REDIS_URL."
        ) from None
    except MasterNotFoundError as error:
        raise RedisUnavailableError(
            f"no Sentinel tells which server is the master at {place}: {_said(error)}. "
            "Check EIP_RECLAIMER_REDIS_SENTINELS, EIP_RECLAIMER_REDIS_SENTINEL_MASTER and "
            "EIP_RECLAIMER_REDIS_SENTINEL_PASSWORD."
        ) from None
    except RedisError as error:
        raise RedisUnavailableError(
            f"no Redis server can be used at {place}: {_said(error)}. Start it, or correct EIP_RECLAIMER_REDIS_URL."
        ) from None
    return redis


def _by_sentinels(options: dict[str, Any], settings: Settings) -> Redis:
    """A client that asks for the master whenever it connects."""
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    connection_class = options.pop("connection_class", None)
    if connection_class is UnixDomainSocketConnection:
        raise InvalidPayloadError(
            "EIP_RECLAIMER_REDIS_URL names a socket, but EIP_RECLAIMER_REDIS_SENTINELS is set: with Sentinels the URL "
            "only says user, password, database and whether to use TLS, as in rediss://user:password@/0"
        )
    encrypted = connection_class is SSLConnection
    ours = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    password = settings.redis_sentinel_password
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        settings.redis_sentinels,
        sentinel_kwargs={
            **ours,
            "ssl": encrypted,
            "username": settings.redis_sentinel_username,
            "password": password.get_secret_value() if password else None,
        },
    )
    redis: Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        settings.redis_sentinel_master, ssl=encrypted, **options
    )
    return redis


def _place(options: dict[str, Any], settings: Settings) -> str:
    """Where the settings lead, without user and password."""
    if settings.redis_sentinels:
        sentinels = ", ".join(f"{host}:{port}" for host, port in settings.redis_sentinels)
        return f"{settings.redis_sentinel_master} (Sentinels {sentinels})"
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def _said(error: Exception) -> str:
    """What a library said, to be followed by a sentence of ours."""
    return str(error).rstrip(".")
