"""`python -m tests.image.contents IMAGE`: what is in the image, as docs/image-contents.md has it.

Everything is read in the image itself: sizes by the file system, Debian's packages by dpkg, Python's by their metadata,
licences by what the packages say.
"""

from __future__ import annotations

import json
import sys

from tests.image.engine import docker

_PYTHON = """
import json, pathlib
from importlib.metadata import distributions
found = []
for each in distributions():
    about = each.metadata
    licence = about.get("License-Expression") or "; ".join(
        name.rpartition(" :: ")[2] for name in about.get_all("Classifier") or [] if name.startswith("License :: ")
    ) or (about.get("License") or "").splitlines()[0:1]
    size = sum(path.stat().st_size for file in each.files or [] if (path := pathlib.Path(each.locate_file(file))).is_file())
    found.append([about["Name"], each.version, licence if isinstance(licence, str) else "".join(licence), size])
print(json.dumps(sorted(found, key=lambda each: each[0].lower())))
"""
_DEBIAN = r"dpkg-query --show --showformat '${Package}\t${Version}\t${Installed-Size}\n'"
_SIZES = "du -xsm /usr /opt /etc /var | sort -rn"
SPECIAL = {
    "set-user-ID or set-group-ID files": "find / -xdev -type f -perm /6000",
    "files and directories that anybody may write, beside /tmp and its like": (
        r"find / -xdev \( -type f -o -type d \) -perm -o+w ! -perm -1000"
    ),
    "files of the user it runs as": "find / -xdev -user 65532",
    "files with capabilities": (
        "find / -xdev -type f | python3 -c 'import os, sys; "
        'print(*(p for p in map(str.strip, sys.stdin) if "security.capability" in os.listxattr(p)), sep="\\n", end="")\''
    ),
    "private keys": "grep -rlIE 'BEGIN ([A-Z]+ )?PRIVATE KEY' / --exclude-dir=proc --exclude-dir=sys || [ $? = 1 ]",
    "compilers, pip, and what downloads": "for each in cc gcc make pip pip3 git curl wget; do command -v $each || true; done",
}
"""What a scan looks for, and the command that does, run by root in the image."""


def inside(image: str, command: str, *, program: str = "sh") -> list[str]:
    """The lines that a script prints in the image, run by root.

    Raises:
        AssertionError: it failed.
    """
    run = ("run", "--rm", "--user", "0", "--network", "none", "--entrypoint", program)
    return docker(*run, image, "-c", command, seconds=300).stdout.splitlines()


def main() -> int:
    """Print the document."""
    image = sys.argv[1]
    (about,) = json.loads(docker("image", "inspect", image).stdout)
    packages = json.loads(inside(image, _PYTHON, program="python")[0])
    debian = [line.split("\t") for line in inside(image, _DEBIAN)]
    base = about["Config"]["Labels"]["org.opencontainers.image.base.name"]
    lines = [
        "# What is in the image",
        "",
        f"Written by `python -m tests.image.contents {image}`, which looks into the image itself.",
        "",
        f"{about['Size'] / 1e6:.0f} MB in {len(about['RootFS']['Layers'])} layers, on `{base}`:",
        "",
        *("    " + line for line in inside(image, _SIZES)),
        "",
        "| looked for | found |",
        "| --- | --- |",
        *(f"| {what} | {', '.join(inside(image, command)) or 'none'} |" for what, command in SPECIAL.items()),
        "",
        f"## Python: {len(packages)} packages",
        "",
        "| package | version | licence, as it says | KB |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {version} | {licence} | {size / 1000:.0f} |" for name, version, licence, size in packages),
        "",
        f"## Debian: {len(debian)} packages",
        "",
        "Their licences are in `/usr/share/doc/*/copyright` in the image.",
        "",
        "| package | version | KB |",
        "| --- | --- | --- |",
        *(f"| {name} | {version} | {size} |" for name, version, size in debian),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
