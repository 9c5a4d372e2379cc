"""``medai audit``: which lines it shows."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medai.cli.main import app
from medai.errors import NotFoundError
from medai.store.audit_log import AuditLog


@pytest.fixture
def study(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path, largest_bytes=1 << 20, files=2)
    for number, (user, case, status) in enumerate(
        [("anna", "s0001", 200), ("ben@10.0.0.4", "Doe^Jane", 200), ("anna", "Doe^Jane", 403)]
    ):
        line = {"time": f"2026-11-30T10:00:0{number}.000Z", "user": user, "address": "10.0.0.4", "method": "GET"}
        log.write(
            {**line, "route": "/datastore/image", "case": case, "tag": "", "status": status, "bytes": 10 + number}
        )
    log.close()
    return tmp_path


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["audit", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_latest_lines_are_shown(study: Path):
    text = shown(str(study), "--last", "2")
    assert "s0001" not in text
    assert "ben@10.0.0.4" in text
    assert "2 of 3 lines." in text


@pytest.mark.parametrize(
    ("options", "sizes"),
    [((), [10, 11, 12]), (("--user", "ben"), [11]), (("--case", "Doe^Jane"), [11, 12]), (("--user", "cleo"), [])],
)
def test_lines_are_selected_and_exported(study: Path, tmp_path: Path, options: tuple[str, ...], sizes: list[int]):
    target = tmp_path / "audit.json"
    shown(str(study), *options, "--json", str(target))
    lines = json.loads(target.read_text())["lines"]
    assert [line["bytes"] for line in lines] == sizes
    assert "Doe" not in target.read_text()


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_study_without_a_log_says_so(tmp_path: Path, folder: str):
    result = CliRunner().invoke(app, ["audit", str(tmp_path / folder)])
    assert isinstance(result.exception, NotFoundError)
    assert "There is no" in str(result.exception)
