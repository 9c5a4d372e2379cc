"""The page of an evaluation: picture and tables in one file of HTML that can be sent on its own, or in Markdown."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.volume_io.atomic import atomic_path

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{padding:.2em .9em .2em 0;text-align:left;"
    "border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}img{max-width:100%}.note{color:#a33}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a page: a title, column names and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def classification_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The figures of an evaluation of ratings, name and value."""
    texture = figures["texture"]
    own = "–"
    if figures["auc_own_outline"] is not None:
        own = f"{number(figures['auc_own_outline'])} ({interval(figures['auc_own_outline_ci95'])})"
    return [
        ["AUC, 4 and 5 against 1 and 2", f"{number(figures['auc'])} ({interval(figures['auc_ci95'] or (None, None))})"],
        ["with the outline of one click", own],
        ["size alone", number(figures["size_only_auc"])],
        [
            "gain over size",
            f"{number(figures['auc_gain'])} ({interval(figures['auc_gain_ci95'] or (None, None))}), "
            f"p {number(figures['auc_gain_p'], 4)}",
        ],
        ["calibration error", f"{number(figures['ece'])}, Brier {number(figures['brier'])}"],
        ["texture", f"{number(texture['accuracy'])} right, weighted kappa {number(texture['weighted_kappa'])}"],
    ]


def number(value: Any, digits: int = 3) -> str:
    """A figure as text; "–" where it does not exist."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:.{digits}f}" if isinstance(value, float) and math.isfinite(value) else "–"


def interval(pair: Sequence[Any], digits: int = 3) -> str:
    """An interval as text."""
    return f"{number(pair[0], digits)} to {number(pair[1], digits)}"


def segmentation_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The figures of an evaluation of outlines, name and value."""
    uncertainty, volume = figures["calibration"]["uncertainty"], figures["volume_error"]
    return [
        ["mean Dice", f"{number(figures['dice_mean'])} (95 % interval {interval(figures['dice_ci95'])})"],
        ["median Dice", number(figures["dice_median"])],
        *(
            [f"mean Dice after click {row['clicks']}", f"{number(row['dice_mean'])} ({interval(row['dice_ci95'])})"]
            for row in figures["dice_by_click"]
            if figures["clicks"] > 1
        ),
        ["Hausdorff 95", f"{number(figures['hd95_mm_mean'], 2)} mm (median {number(figures['hd95_mm_median'], 2)})"],
        [
            "volume error",
            f"{number(volume['mean_percent'], 1)} % (absolute {number(volume['mean_absolute_percent'], 1)} %)",
        ],
        [
            "calibration error of voxels",
            f"{number(figures['calibration']['ece'])} (doubtful {number(figures['calibration']['ece_doubtful'])})",
        ],
        ["uncertainty against Dice", f"Spearman {number(uncertainty['spearman_with_dice'], 2)}"],
        ["seconds an answer", number(figures["seconds_per_click"]["median"], 2)],
    ]


def detection_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The figures of an evaluation of a detector, name and value."""
    return [
        ["CPM", f"{number(figures['cpm'])} (95 % interval {interval(figures['cpm_ci95'])})"],
        ["sensitivity at 1 false positive, 4 mm and more", number(figures["sensitivity_at_1_fp_ge4mm"])],
        ["scans with nodules called positive", number(figures["scan_sensitivity"])],
        ["scans without nodules not called positive", number(figures["scan_specificity"])],
        ["threshold", f"{figures['operating_point']['threshold']:g}"],
        ["false positives a scan there", number(figures["operating_point"]["fps_per_scan"], 2)],
    ]


def group_table(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """Outlines of subgroups."""
    return Table(
        title=title,
        columns=("class", "nodules", "mean Dice", "95 % interval", "median", "Hausdorff 95"),
        rows=[
            [
                name,
                str(row["n"]),
                number(row["dice_mean"]),
                interval(row["dice_ci95"]),
                number(row["dice_median"]),
                f"{number(row['hd95_mm_mean'], 2)} mm",
            ]
            for name, row in groups.items()
        ],
    )


def auc_table(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """Ratings of subgroups."""
    return Table(
        title=title,
        columns=("class", "nodules", "suspicious", "AUC", "95 % interval", "size alone"),
        rows=[
            [
                name,
                str(row["n"]),
                str(row["n_malignant"]),
                number(row.get("auc")),
                interval(row.get("auc_ci95") or (None, None)),
                number(row.get("size_only_auc")),
            ]
            for name, row in groups.items()
        ],
    )


def write_page(
    page: Path,
    title: str,
    what: str,
    png: Path | Sequence[Path],
    tables: Sequence[Table],
    skipped: Mapping[str, str],
    warnings: Sequence[str],
) -> None:
    """One file that can be sent on its own."""
    safe: Callable[[str], str] = html.escape
    pictures = [
        base64.b64encode(path.read_bytes()).decode("ascii") for path in ([png] if isinstance(png, Path) else png)
    ]
    if skipped:
        rows = [[case, reason] for case, reason in skipped.items()]
        tables = [*tables, Table(title=f"Left out: {len(skipped)}", columns=("case", "why"), rows=rows)]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{safe(title)}</title><style>{_STYLE}</style>",
        f"<h1>{safe(title)}</h1><p>{safe(what)}</p>",
        *(f"<p class='note'>{safe(warning)}</p>" for warning in warnings),
        *(f"<img alt='{safe(title)}' src='data:image/png;base64,{picture}'>" for picture in pictures),
    ]
    for table in tables:
        head = "".join(f"<th>{safe(column)}</th>" for column in table.columns)
        body = "".join("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
        parts.append(f"<h2>{safe(table.title)}</h2><table><tr>{head}</tr>{body}</table>")
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join([*parts, "</html>", ""]), encoding="utf-8")


def write_tables(path: Path, title: str, what: str, tables: Sequence[Table]) -> None:
    """The same tables as Markdown, to be put into notes and documents."""
    parts = [f"# {title}", what]
    for table in tables:
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (table.columns, *table.rows))
        lines = [head, ["---"] * len(head), *rows]
        parts += [f"## {table.title}", "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def model_name(model: Mapping[str, Any]) -> str:
    """A model's version and the start of its weights' digest."""
    digest = str(model.get("weights_sha256", ""))[:8]
    return f"{model.get('version_id', 'unknown')} ({digest})" if digest else str(model.get("version_id", "unknown"))
