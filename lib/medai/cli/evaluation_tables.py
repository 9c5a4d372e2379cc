"""What ``medai evaluate`` shows in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from medai.workflows.classification_report import ClassificationReport


def show_segmentation(screen: Console, figures: Mapping[str, Any]) -> None:
    """Dice as a histogram, and a table by size and texture."""
    from rich.table import Table

    from medai.cli.terminal_plots import bars
    from medai.workflows.evaluation_page import interval, number

    dice = [case["dice"] for case in figures["per_case"]]
    counts = [sum(low <= value < low + 0.1 or (value >= 1 and low > 0.85) for value in dice) for low in _tenths()]
    most = max(counts)
    screen.print(
        bars(
            f"Dice of {figures['n']} nodules",
            [
                (f"{low:.1f}-{low + 0.1:.1f}", count / most, str(count))
                for low, count in zip(_tenths(), counts, strict=True)
            ],
        )
    )
    table = Table("nodules", "n", "mean Dice", "95 %", "median", "HD 95", "volume")
    groups = {"all": figures, **figures["by_size"], **figures["by_texture"]}
    for name, row in groups.items():
        table.add_row(
            name,
            str(row["n"]),
            number(row["dice_mean"]),
            f"{number(row['dice_ci95'][0])}–{number(row['dice_ci95'][1])}",
            number(row["dice_median"]),
            f"{number(row['hd95_mm_mean'], 2)} mm",
            f"{row['volume_error_percent_mean']:+.0f} %",
        )
    screen.print(table)
    for row in figures["dice_by_click"] if figures["clicks"] > 1 else ():
        screen.print(f"after click {row['clicks']}: {number(row['dice_mean'])} ({interval(row['dice_ci95'])})")
    calibration = figures["calibration"]
    screen.print(
        f"calibration error {number(calibration['ece'])} of all voxels looked at, "
        f"{number(calibration['ece_doubtful'])} of doubtful ones; uncertainty against Dice: Spearman "
        f"{number(calibration['uncertainty']['spearman_with_dice'], 2)}; "
        f"{number(figures['seconds_per_click']['median'], 2)} s an answer"
    )


def show_classification(screen: Console, report: ClassificationReport, figures: Mapping[str, Any]) -> None:
    """The ROC curve in its box, and what is read from it."""
    from medai.cli.terminal_plots import curve
    from medai.workflows.evaluation_figures import roc_curves
    from medai.workflows.evaluation_page import classification_rows

    for name, _, points in roc_curves(report)[:1]:
        screen.print(f"ROC {name}: sensitivity against 1 − specificity")
        screen.print(curve(points))
    screen.print(_two_columns([(name, value) for name, value in classification_rows(figures)]))


def show_detection(screen: Console, figures: Mapping[str, Any]) -> None:
    """Sensitivity at LUNA16's rates as bars, and what is read from the curve."""
    from medai.cli.terminal_plots import bars
    from medai.workflows.evaluation_page import interval, number

    fractions = {"0.125": "1/8", "0.25": "1/4", "0.5": "1/2"}
    screen.print(
        bars(
            f"Sensitivity at false positives a scan, {figures['n_nodules']} nodules in {figures['n_scans']} scans",
            [
                (
                    fractions.get(rate, rate),
                    value,
                    f"{number(value)}  ({interval(figures['sensitivity_at_ci95'][rate])})",
                )
                for rate, value in figures["sensitivity_at"].items()
            ],
        )
    )
    screen.print(_two_columns(_detection_lines(figures, number, interval)))


def _detection_lines(
    figures: Mapping[str, Any], number: Callable[..., str], interval: Callable[..., str]
) -> list[tuple[str, str]]:
    point = figures["operating_point"]
    return [
        ("CPM", f"{number(figures['cpm'])}  ({interval(figures['cpm_ci95'])})"),
        ("4 mm and more, at 1 false positive", number(figures["sensitivity_at_1_fp_ge4mm"])),
        (
            "scans with nodules called positive",
            f"{number(figures['scan_sensitivity'])} of {figures['n_scans_with_nodules']}",
        ),
        (
            "scans without, not called so",
            f"{number(figures['scan_specificity'])} of {figures['n_scans_without_nodules']}",
        ),
        (
            f"at the threshold {point['threshold']:g}",
            f"{number(point['sensitivity'])} found, {number(point['fps_per_scan'], 2)} false positives a scan",
        ),
        ("marks from", str(figures["marks_from"])),
    ]


def _two_columns(rows: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    return table


def tell_oddities(screen: Console, figures: Mapping[str, Any]) -> None:
    """What is left out, and what a reader should know."""
    from rich.markup import escape

    for warning in figures.get("warnings", ()):
        screen.print(f"[yellow]note[/] {escape(str(warning))}")
    skipped = figures.get("skipped", {})
    for case, reason in list(skipped.items())[:10]:
        screen.print(f"[red]left out[/] {escape(f'{case}: {reason}')}")
    if len(skipped) > 10:
        screen.print(f"[red]left out[/] {len(skipped) - 10} more; the JSON names them")


def _tenths() -> list[float]:
    return [n / 10 for n in range(10)]
