"""``medai annotators``: how the annotators of a study agree, and who of them stands out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, write_json
from medai.cli.targets import output_file

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.annotators import AnnotatorsReport, AnnotatorSummary


def annotators(
    studies: Annotated[Path, typer.Argument(metavar="STUDIES", help="The study folder.")],
    margin: Annotated[
        float, typer.Option(min=1, max=90, metavar="PERCENT", help="A bias in volume beyond this is named.")
    ] = 10,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="FILE",
            help="Also draw it (.png).",
            callback=output_file,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same intervals.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Compare annotators: Dice, kappa of ratings, bias in volume with its interval; names who stands out."""
    from medai.workflows.annotator_pictures import check_picture, draw_annotators
    from medai.workflows.annotators import compare_annotators, open_annotations

    if picture is not None:
        check_picture(picture)
    screen = console(json_file)
    source = open_annotations(studies)
    with progress_bar(screen) as bar:
        task = bar.add_task("Comparing annotators", total=None)
        report = compare_annotators(
            source,
            margin=margin / 100,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_json(json_file, report.to_json())
    show_annotators(screen, report)
    if picture is not None:
        draw_annotators(report, picture)
        screen.print(f"[dim]{picture}[/]")


def show_annotators(screen: Console, report: AnnotatorsReport) -> None:
    """A row an annotator, a row a pair, the kappas, and who stands out in words."""
    from rich.markup import escape
    from rich.table import Table

    from medai.workflows.evaluation_page import number

    table = Table("annotator", "cases", "bias in volume", "against", "Dice to others", "sensitivity", "specificity")
    for each in report.annotators:
        table.add_row(
            escape(each.name),
            str(each.cases) + (f" ({each.quarantined} in quarantine)" if each.quarantined else ""),
            _bias(each),
            _against(each),
            _overlap(each),
            number(each.staple.sensitivity if each.staple else None, 2),
            number(each.staple.specificity if each.staple else None, 2),
        )
    screen.print(table)
    if report.pairs:
        pairs = Table("annotators", "cases", "both", "only first", "only second", "detection", "Dice of both")
        for pair in report.pairs:
            dice = pair.dice
            pairs.add_row(
                escape(f"{pair.first}, {pair.second}"),
                *(str(n) for n in (pair.cases, pair.both, pair.only_first, pair.only_second)),
                number(pair.detection, 2),
                f"{dice.mean:.2f} ({dice.low:.2f} to {dice.high:.2f})" if dice else "–",
            )
        screen.print(pairs)
    for rating in report.ratings:
        words = f"{rating.attribute}: {rating.first}, {rating.second}: weighted kappa {number(rating.kappa, 2)}"
        screen.print(escape(f"{words} ({rating.nodules} nodules)"))
    for sentence in report.findings():
        screen.print(escape(sentence), style="bold")
    for annotation_id, reason in report.skipped.items():
        screen.print(f"[red]left out[/] {escape(f'{annotation_id}: {reason}')}")


def _bias(each: AnnotatorSummary) -> str:
    if each.bias is None:
        return "–"
    mean, low, high = each.bias.percent
    text = f"{mean:+.0f} % ({low:+.0f} to {high:+.0f})"
    if each.bias.is_biased:
        return f"[red]{text} biased[/]"
    return f"[yellow]{text} disputed[/]" if each.bias.is_disputed else text


def _against(each: AnnotatorSummary) -> str:
    if each.bias is None:
        return "–"
    parts = [
        f"{each.bias.against_peers} nodules of others" if each.bias.against_peers else "",
        f"{each.bias.against_model} proposals" if each.bias.against_model else "",
    ]
    return ", ".join(part for part in parts if part)


def _overlap(each: AnnotatorSummary) -> str:
    if each.overlap is None:
        return "–"
    value = each.overlap.dice
    text = f"{value.mean:.2f} ({value.low:.2f} to {value.high:.2f})"
    return f"[red]{text} outlier[/]" if each.overlap.is_outlier else text
