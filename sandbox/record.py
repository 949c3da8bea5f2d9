"""What a controller truly did, with the time of each step: what a referee judges by."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One step. `time` is the wall clock's, `monotonic` the other one's, both in seconds.

    `step` is one of: started, stopped, killed, queued, allocated, eip_add_started, eip_add_done, eip_add_failed,
    spec_written, status_written, labels_written, finalizer_written, ready, found_gone, created_anew, address_left,
    deletion_seen, ignored_terminating, eip_del_started, eip_del_done, eip_del_failed, finalizer_removed, released,
    pod_initialised, failed.
    """

    step: str
    time: float
    monotonic: float
    eip: str = ""
    uid: str = ""
    gateway: str = ""
    addresses: tuple[str, ...] = ()
    pod: str = ""
    pod_uid: str = ""
    detail: str = ""


@dataclass
class Records:
    """All records in order, and in a file of JSON lines where there is one to be."""

    file: Path | None = None
    entries: list[Record] = field(default_factory=list)

    def add(self, step: str, **fields: Any) -> None:
        """Note that a step was done now."""
        record = Record(step, time.time(), time.monotonic(), **fields)
        self.entries.append(record)
        if self.file:
            with self.file.open("a") as out:
                out.write(json.dumps(asdict(record)) + "\n")

    @classmethod
    def read(cls, file: Path) -> Records:
        """What is in a file by now; nothing where there is none yet."""
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        # The last line may still be in the writing.
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return cls(entries=[Record(**{**entry, "addresses": tuple(entry["addresses"])}) for entry in entries])

    def find(self, *steps: str, **fields: Any) -> list[Record]:
        """The records of these steps (of all, without any) whose fields have these values."""
        return [
            record
            for record in list(self.entries)
            if (not steps or record.step in steps)
            and all(getattr(record, name) == value for name, value in fields.items())
        ]

    def steps(self, **fields: Any) -> list[str]:
        """The names of the steps whose records' fields have these values, in order."""
        return [record.step for record in self.find(**fields)]

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self.entries))

    def __len__(self) -> int:
        return len(self.entries)
