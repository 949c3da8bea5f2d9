"""The documents as tests read them: links, anchors, code blocks, code in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = {".venv", "node_modules", "build", "dist", "chaos-report", "bench-report", ".pytest_cache"}

_FENCED = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HTML_LINK = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path from the project's root."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[str]:
        """Code blocks, fenced and indented ones, without their indentation, in their order."""
        fenced = [(found.start(), _dedent(found[4])) for found in _FENCED.finditer(self.text)]
        rest = _FENCED.sub(lambda found: "\n" * found[0].count("\n"), self.text)
        # For places of indented blocks only the order among themselves and to fenced ones counts.
        lines = rest.split("\n")
        starts = _line_starts(self.text)
        found: list[tuple[int, str]] = []
        block: list[str] = []
        for number, line in enumerate([*lines, "end"]):
            before_is_blank = number == 0 or not lines[number - 1].strip()
            if (line.startswith("    ") and (block or before_is_blank)) or (block and not line.strip()):
                block.append(line)
            elif block:
                found.append((starts[number - len(block)], _dedent("\n".join(block).rstrip())))
                block = []
        return [text for _, text in sorted(fenced + found)]

    @cached_property
    def prose(self) -> str:
        """The text without code blocks."""
        text = _FENCED.sub("", self.text)
        lines = text.split("\n")
        kept: list[str] = []
        in_block = False
        for number, line in enumerate(lines):
            before_is_blank = number == 0 or not lines[number - 1].strip()
            in_block = (line.startswith("    ") and (in_block or before_is_blank)) or (in_block and not line.strip())
            if not in_block:
                kept.append(line)
        return "\n".join(kept)

    @cached_property
    def spans(self) -> list[str]:
        """Code in the text, in its order; line breaks are spaces."""
        return [" ".join(found[2].split()) for found in _SPAN.finditer(self.prose)]

    @cached_property
    def links(self) -> list[str]:
        """Where it links to, pictures among them, in its order."""
        without_code = _SPAN.sub("", self.prose)
        found = [(each.start(), each[1]) for pattern in (_LINK, _HTML_LINK) for each in pattern.finditer(without_code)]
        return [target for _, target in sorted(found)]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link can lead to in it: headings, as GitHub names them."""
        found: dict[str, int] = {}
        anchors = set()
        for _, heading in _HEADING.findall(self.prose):
            slug = _slug(heading)
            times = found.get(slug, 0)
            found[slug] = times + 1
            anchors.add(f"{slug}-{times}" if times else slug)
        return anchors

    @cached_property
    def command_lines(self) -> list[str]:
        """Lines in code blocks, and code in the text, that begin with a command of ours or with `make`."""
        lines = [line for block in self.blocks for line in _typed(_joined(block))]
        lines += self.spans
        # What a variable is set to for one command comes before it.
        stripped = [re.sub(r"^(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) +)+", "", line.strip()) for line in lines]
        return [line for line in stripped if re.match(r"(eip-reclaimer|make|python3? -m [\w.]+)(?=\s|$)", line)]


@cache
def documents() -> list[Document]:
    """Every Markdown file of the project."""
    files = (file for file in ROOT.rglob("*.md") if not NOT_OURS & set(file.relative_to(ROOT).parts))
    return [Document(file) for file in sorted(files)]


def _slug(heading: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _joined(block: str) -> list[str]:
    """The lines of a block, those that end in a backslash joined to the next."""
    return re.sub(r"\\\n\s*", "", block).split("\n")


def _typed(lines: list[str]) -> list[str]:
    """What of a block is typed: where lines begin with a prompt, those; otherwise it may be any."""
    prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return prompted or lines


def _dedent(block: str) -> str:
    lines = block.split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines).strip("\n")


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts
