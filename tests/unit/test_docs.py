"""The documents: links lead somewhere, and what they tell people to type is understood."""

import re
import shlex
from pathlib import Path

import pytest

from distqatd.config.layers import set_override
from distqatd.daemon.arguments import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("systemd/*.md")])
DIAGRAMS = ("flowchart ", "sequenceDiagram", "stateDiagram-v2")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """Return every command line of `program` in the code blocks of all pages."""
    lines = [line for page in PAGES for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("line", commands("distqatd"))
def test_distqatd_understands_every_command_in_the_documents(line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


def test_there_are_commands_to_check() -> None:
    assert len(commands("distqatd")) >= 4


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_set_in_the_documents_names_a_field(page: Path) -> None:
    for text in re.findall(r"--set ([a-z_.]+=[^\s`]+)", page.read_text()):
        set_override(text)


def test_the_four_diagrams_are_there() -> None:
    found = blocks(ROOT / "docs/architecture.md", "mermaid")
    assert len(found) >= 4
    assert all(text.startswith(DIAGRAMS) for text in found)
