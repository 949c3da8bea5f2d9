"""`eip-reclaimer settings`: what is in force, and where each value comes from."""

from __future__ import annotations

import json
import os
import re
from typing import Annotated, Any

import typer

from cli.options import Json, Kubeconfig, RedisUrl, settings_of
from cli.tables import plain, table

PREFIX = "EIP_RECLAIMER_"
HIDDEN = "***"
HARMLESS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
"""What a Redis URL may ask for that is no secret."""
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT(_|$)")
"""What Kubernetes puts into a pod's environment for a Service named `eip-reclaimer-…`."""


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="only those that are not the default")] = False,
    driver: Annotated[str | None, typer.Option(help="exec or netlink", show_default=False)] = None,
    redis_url: RedisUrl = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Show the settings in force here, and where each comes from: default, environment or flag. Secrets are hidden.

    Nothing is connected to. Exit status: 0, 1 when a variable EIP_RECLAIMER_* is set that is no setting, 2 when one has
    no valid value.
    """
    flags = {"redis_url": redis_url, "kubeconfig": kubeconfig, "driver": driver}
    in_force = settings_of(**flags)
    # As pydantic-settings reads them: upper and lower case are the same.
    variables = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    found = {}
    for name in type(in_force).model_fields:
        variable = PREFIX + name.upper()
        origin = "environment" if variable in variables else "default"
        origin = "flag" if flags.get(name) is not None else origin
        found[variable] = {"value": written(name, getattr(in_force, name)), "from": origin}
    unknown = sorted(name for name in variables - set(found) if not _SERVICE_LINK.search(name))
    shown = {variable: each for variable, each in found.items() if not changed or each["from"] != "default"}
    if as_json:
        typer.echo(json.dumps({"settings": shown, "unknown": unknown}))
    else:
        if shown:
            rows = [(variable, each["value"], each["from"]) for variable, each in shown.items()]
            table(("VARIABLE", "VALUE", "FROM"), rows)
        else:
            typer.echo("every setting is its default")
        for variable in unknown:
            typer.echo(plain(f"{variable} is set, and is no setting: it does nothing. Is it misspelt?"), err=True)
    raise typer.Exit(1 if unknown else 0)


def written(name: str, value: Any) -> str | None:
    """A setting's value as one writes it into its variable; None where there is none. Secrets are hidden."""
    from pydantic import SecretStr

    match value:
        case None | ():
            text = None
        case SecretStr():
            text = _without_password(value.get_secret_value()) if name == "redis_url" else HIDDEN
        case bool():
            text = str(value).lower()
        case float():
            text = f"{value:.15g}"
        case (str() as host, int() as port):
            text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case tuple():
            text = ",".join(str(written(name, each)) for each in value)
        case _:
            text = str(value)
    return text


def _without_password(text: str) -> str:
    """A URL without its password; hidden altogether where that may not be all there is to hide."""
    from urllib.parse import parse_qsl, urlsplit

    try:
        url = urlsplit(text)
        user, host, port = url.username, url.hostname, url.port
    except ValueError:
        return HIDDEN
    # A password that is not escaped ends the host early, and goes on in what follows.
    if url.scheme not in ("redis", "rediss", "unix") or "@" in f"{url.path}{url.query}{url.fragment}":
        return HIDDEN
    login = f"{user or ''}:{HIDDEN}@" if url.password else f"{user}@" if user else ""
    host = f"[{host}]" if host and ":" in host else host or ""
    asked = "&".join(f"{key}={value if key in HARMLESS else HIDDEN}" for key, value in parse_qsl(url.query))
    place = f"{url.scheme}://{login}{host}{f':{port}' if port is not None else ''}{url.path}"
    return f"{place}?{asked}" if asked else place
