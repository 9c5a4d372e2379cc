"""Commands that messages, documentation and this project's own words name are commands that exist, options included."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from medai.cli.main import app
from medai.cli.serve import join_conf

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "apps" / "medai" / "docs").glob("*.md"))]

# Up to the end of the sentence, of the quotation or of the line.
NAMED = re.compile(r"\bmedai ((?:[a-z][a-z-]*)(?: (?!medai )[^\s`;:()»…]+)*)")
OPTION = re.compile(r"--[a-z][a-z-]*")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_/|]+\Z")


ROOT_COMMAND = typer.main.get_command(app)
GROUPS = {name for name, command in ROOT_COMMAND.commands.items() if hasattr(command, "commands")}


def leaf(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command that the words begin with, and the words that follow; None where there is no such command."""
    command: click.Command = ROOT_COMMAND
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return None
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


def text_of(node: ast.AST) -> str:
    """A string of the source as its reader sees it; what is filled in stands as X."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return ""


def said_in_source() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "lib" / "medai").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "medai " not in source:
            continue
        tree = ast.parse(source)
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) not in inside and "medai " in (text := text_of(node)):
                yield path.relative_to(ROOT).as_posix(), text


def wrong_commands(text: str) -> list[str]:
    """What a text names as a command of medai and is none."""
    wrong = []
    for found in NAMED.finditer(" ".join(text.split())):
        said = found[1].split(". ")[0]
        words = [word.rstrip(".,'\"") for word in said.split()]
        is_call = any(OPTION.match(word) for word in words[1:]) or any(
            PLACEHOLDER.match(word) and word != "MONAI" for word in words[1 : 2 + (words[0] in GROUPS)]
        )
        known = leaf(words)
        if known is None:
            if is_call:
                wrong.append(f"medai {said}")
            continue
        missing = {match[0] for word in known[1] if (match := OPTION.match(word))} - options_of(known[0])
        if missing:
            wrong.append(f"medai {said} ({', '.join(sorted(missing))})")
    return wrong


def test_what_this_test_would_find():
    assert wrong_commands("Make one with: medai import SCANS --into X") == ["medai import SCANS --into X (--into)"]
    assert wrong_commands("medai imports STUDIES") == ["medai imports STUDIES"]
    assert wrong_commands("Try medai train TASK --data DIR --carefully.")[0].endswith("(--carefully)")
    assert wrong_commands("The models: medai models cards TASK; medai status lists them.") == [
        "medai models cards TASK"
    ]
    assert wrong_commands("medai models card TASK shows one. medai works on CT only, medai or MONAI Label") == []
    assert wrong_commands("Bring some: medai import SCANS --to X takes DICOM. medai serves a folder.") == []


def test_messages_name_commands_that_exist():
    wrong = [f"{where}: {what}" for where, text in said_in_source() for what in wrong_commands(text)]
    assert wrong == []


def commands_in(page: Path) -> Iterator[str]:
    """Command lines of a page's shell blocks."""
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?medai (.*)", line):
                yield match[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_of_the_pages_are_understood(page: Path):
    for line in commands_in(page):
        known = leaf(join_conf(shlex.split(line, comments=True)))
        assert known is not None, f"medai {line}"
        command, arguments = known
        # Raises where an option is unknown, an argument is missing or one too many.
        command.make_context(command.name, list(arguments))
    assert page.name != "README.md" or len(list(commands_in(page))) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_commands_that_exist(page: Path):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = [what for code in re.findall(r"`([^`]+)`", prose) for what in wrong_commands(code)]
    assert named == []


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["serve", "S", "--conf", "train_after", "10"], ["serve", "S", "--conf", "train_after=10"]),
        (["serve", "S", "--conf", "train_after=10"], ["serve", "S", "--conf", "train_after=10"]),
        (["serve", "--conf", "tracking", "off", "S"], ["serve", "--conf", "tracking=off", "S"]),
        (["serve", "S", "--conf", "seed", "-1"], ["serve", "S", "--conf", "seed=-1"]),
        (
            ["serve", "S", "--conf", "tracking", "http://h/?a=b", "--conf", "seed=2"],
            ["serve", "S", "--conf", "tracking=http://h/?a=b", "--conf", "seed=2"],
        ),
        (["serve", "S", "--conf", "alone"], ["serve", "S", "--conf", "alone"]),
        (["serve", "S", "--conf", "alone", "--port", "1"], ["serve", "S", "--conf", "alone", "--port", "1"]),
        (["serve", "--", "--conf", "a", "b"], ["serve", "--", "--conf", "a", "b"]),
    ],
)
def test_settings_are_taken_in_both_forms(typed: list[str], understood: list[str]):
    assert join_conf(typed) == understood
