"""The page's tables as Markdown."""

from __future__ import annotations

from pathlib import Path

from medai.workflows.evaluation_page import Table, write_tables


def test_tables_become_markdown(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    table = Table(title="Figures", columns=("what", "Dice"), rows=[["solid | large", "0.90"], ["all", "–"]])
    write_tables(path, "Title", "What it is.", [table])
    assert path.read_text(encoding="utf-8") == (
        "# Title\n\nWhat it is.\n\n## Figures\n\n"
        "| what | Dice |\n| --- | --- |\n| solid \\| large | 0.90 |\n| all | – |\n"
    )
