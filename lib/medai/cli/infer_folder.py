"""``medai infer scan`` over a folder: progress, what was found, what could not be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai.cli.output import console, progress_bar, stoppable, write_json
from medai.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from medai.workflows.executors import CaseExecutor, CaseOutcome

SPEED_OVER_S = 3600.0
SHOWN = 30


def is_folder_of_scans(image: Path, out: Path) -> bool:
    """Whether a path is a folder of scans; a DICOM folder is one scan, also with its series in a folder inside it.

    Args:
        image: what is to be answered.
        out: where to; of series in folders it says which is meant.
    """
    if not image.is_dir():
        return False
    from medai.workflows.infer_folder import scans_in

    scans = scans_in(image)
    return bool(scans) and (not _names_a_file(out) or any(path.is_file() for path in scans.values()))


def _names_a_file(out: Path) -> bool:
    from medai.workflows.infer_folder import ENDINGS

    return out.is_file() or out.name.lower().endswith(ENDINGS)


def scan_folder(
    folder: Path,
    out: Path,
    executor: CaseExecutor,
    own_output: AbstractContextManager[None],
    *,
    studies: Path | None,
    file_format: str | None,
    anew: bool,
    json_file: Path | None,
) -> None:
    """Answer every scan of a folder and say what was found.

    Args:
        folder: the scans.
        out: takes the answers.
        executor: who works, within ``own_output``.
        own_output: see ``medai.cli.executor_options``.
        studies: whose models answer; None: the starter models.
        file_format: ending of the answers; None: ``.seg.nrrd``.
        anew: answer those again that were answered before.
        json_file: takes the report.

    Raises:
        InputError: the output is no folder, or no scan could be used.
    """
    from medai.workflows.infer_folder import ENDINGS, FolderTask, infer_folder

    if _names_a_file(out):
        raise InputError(f"--out takes a folder where --image is one; '{out}' is a file.")
    task = FolderTask(
        folder=folder.resolve(),
        out=out.resolve(),
        studies=None if studies is None else studies.resolve(),
        ending=file_format or ENDINGS[0],
    )
    screen = console(json_file)
    kept = f"The answers so far are in {out}: the same command goes on."
    with stoppable(kept), own_output, progress_bar(screen, speed_over_s=SPEED_OVER_S) as bar:
        shown = bar.add_task(f"Looking for nodules by {executor.description}", total=None)

        def show(done: int, total: int, _: CaseOutcome[dict[str, Any]] | None) -> None:
            bar.update(shown, completed=done, total=total)

        report = infer_folder(task, executor, again=anew, on_step=show)
    screen.print(_table(report.scans, out))
    if report.passed_over:
        screen.print(
            f"{len(report.passed_over)} of them were answered by the same models before (--anew repeats them)."
        )
    for name, reason in report.failed.items():
        screen.print(f"not answered: {name}: {reason}", style="yellow", markup=False)
    write_json(json_file, report.to_json())
    if report.failed and not report.scans:
        name, reason = next(iter(report.failed.items()))
        raise InputError(f"None of the {len(report.failed)} scans could be used; {name}: {reason}")


def _table(scans: dict[str, dict[str, Any]], out: Path) -> object:
    from rich.markup import escape
    from rich.table import Table

    nodules = sum(len(found["nodules"]) for found in scans.values())
    table = Table("scan", "nodules", "largest", title=f"{nodules} nodules in {len(scans)} scans → {out}")
    for name, found in list(scans.items())[:SHOWN]:
        largest = max((nodule["diameter_mm"] for nodule in found["nodules"]), default=None)
        table.add_row(escape(name), str(len(found["nodules"])), "" if largest is None else f"{largest:.1f} mm")
    if len(scans) > SHOWN:
        table.add_row(f"… and {len(scans) - SHOWN} more", "", "")
    return table
