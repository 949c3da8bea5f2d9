"""The rights that network namespaces need: `python -m sandbox.privileges -- COMMAND …` runs a command with them.

Root with CAP_SYS_ADMIN and CAP_NET_ADMIN has them already. Anybody else gets them inside a user namespace of their own,
with a network namespace of its own around the command, loopback up. Either way this process *becomes* the command:
its process id, exit status and signals are the command's, and nothing stays behind when it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "bash": "bash"}
"""What the sandbox runs, and the package that has it on most distributions."""

UNABLE = 125
"""The exit status when the command could not be run with the rights it needs."""

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_NEEDED = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
_INSIDE = ("unshare", "--user", "--map-root-user", "--net", "--")
_WITH_LOOPBACK = ("bash", "-c", 'ip link set lo up && exec "$@"', "bash")

_FORBIDDING = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
"""Settings that forbid user namespaces: where, the value that does, and what root runs to allow them."""


def is_privileged() -> bool:
    """Whether this process may make network namespaces as it is."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16) & _NEEDED == _NEEDED
    return False


def missing_rights() -> str | None:
    """Why namespaces cannot be had here, and what to do about it, in one sentence; None when they can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({PROGRAMS[name] for name in missing}))
        return f"{', '.join(missing)} not found on PATH: install {packages}."
    if is_privileged():
        return None
    probe = subprocess.run([*_INSIDE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return None
    for path, value, remedy in _FORBIDDING:
        if _read(path) == value:
            return f"User namespaces are forbidden on this machine: run this as root, or let root run `{remedy}`."
    reason = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"No user namespace could be made ({reason}): run this as root, or in a container with --privileged."


def privileged_command(command: list[str]) -> list[str]:
    """The argv that runs a command with the rights: the command itself where they are there already."""
    return command if is_privileged() else [*_INSIDE, *_WITH_LOOPBACK, *command]


def require_rights() -> None:
    """End this program with a message that says what to do, where namespaces cannot be had."""
    problem = missing_rights()
    if problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(UNABLE)


def main(arguments: list[str]) -> int:
    """Become the command; only returns, with an exit status, where that is impossible."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        sys.stderr.write("usage: python -m sandbox.privileges -- COMMAND …\n")
        return 2
    require_rights()
    if shutil.which(command[0]) is None:
        sys.stderr.write(f"{command[0]}: command not found\n")
        return 127
    return _become(privileged_command(command))


def _become(argv: list[str]) -> NoReturn:
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
