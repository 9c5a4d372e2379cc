"""A model card in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medai.registry.cards import CardFigure, StarterCard, StudyCard
from medai.workflows.model_cards import ShownCard

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show_card(screen: Console, shown: ShownCard) -> None:
    """Print a card: what it is, how good, by whom and where it fails."""
    card = shown.card
    if isinstance(card, StarterCard):
        _show_starter(screen, card, shown)
    else:
        _show_study(screen, card, shown)


def figure_words(figure: CardFigure) -> str:
    """A figure with its interval: "0.862 (0.845–0.877)"."""
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def _show_starter(screen: Console, card: StarterCard, shown: ShownCard) -> None:
    from rich.markup import escape

    screen.rule(f"[bold]{card.task}[/] · {escape(card.name)}")
    facts = _facts()
    for name, words in (
        ("version", f"{card.version_id}, {card.date}"),
        ("weights", f"sha256 {card.weights_sha256[:16]}…  {shown.version.weights_path}"),
        ("data", card.data.name),
        ("licence", card.data.licence),
        ("attribution", card.data.attribution),
        ("truth", card.data.truth),
        ("split", card.data.split),
        ("training", card.training.how),
        ("configuration", ", ".join(f"{key}={value}" for key, value in card.training.config.items())),
        ("measured", card.metrics.what),
    ):
        facts.add_row(name, escape(words))
    screen.print(facts)
    screen.print(_figures("", card.metrics.figures, "figure (95 % interval)"))
    for group in card.metrics.groups:
        screen.print(_figures(f"{group.measure} by {group.by}", group.rows, f"{group.measure} (95 % interval)"))
    _show_failures(screen, card, shown)
    screen.print("[bold]Limits[/]")
    for limit in card.limits:
        screen.print(f"  • {escape(limit)}")


def _show_failures(screen: Console, card: StarterCard, shown: ShownCard) -> None:
    from rich.markup import escape
    from rich.table import Table

    failures = card.known_failures
    screen.print(f"[bold]Known failures[/]: {escape(failures.what)}")
    for words in failures.in_common:
        screen.print(f"  • {escape(words)}")
    table = Table("case", "what went wrong", "picture", title_justify="left")
    for failure in failures.cases:
        table.add_row(escape(failure.case_id), escape(failure.words), failure.picture)
    screen.print(table)
    screen.print(f"  all in one: {shown.pictures[failures.montage]}", soft_wrap=True)


def _show_study(screen: Console, card: StudyCard, shown: ShownCard) -> None:
    from rich.markup import escape

    verdict = shown.version.verdict
    screen.rule(f"[bold]{shown.version.task}[/] · {card.version_id}")
    facts = _facts()
    for name, words in (
        ("published", card.published_at),
        ("trained from", card.trained_from),
        ("trained on", f"{len(card.trained_on)} cases: {', '.join(card.trained_on)}"),
        ("their labels", ", ".join(f"{case} {card.label_sha256.get(case, '')[:12]}" for case in card.trained_on)),
        ("judged on", f"{len(card.judged_on)} cases of other patients: {', '.join(card.judged_on)}"),
        ("training", f"{card.epochs} epochs, seed {card.seed}{_kept_words(card)}"),
        ("verdict", str(verdict.get("reason", ""))),
        ("weights", f"sha256 {card.weights_sha256[:16]}…  {shown.version.weights_path}"),
    ):
        facts.add_row(name, escape(words))
    screen.print(facts)
    screen.print("What its predecessors learned from is on their cards: --version.", style="dim")


def _kept_words(card: StudyCard) -> str:
    """How much of the training is in the weights, where the card says so."""
    from medai.networks.mean_weights import KEPT_SHARE

    share = card.training_config.get(KEPT_SHARE)
    return "" if share is None else f"; {share:.0%} of it kept, the rest is the former model (old skills)"


def _facts() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _figures(title: str, figures: tuple[CardFigure, ...], heading: str) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    table.add_column("")
    table.add_column(heading, justify="right")
    table.add_column("n", justify="right")
    for figure in figures:
        table.add_row(escape(figure.name), figure_words(figure), "" if figure.n is None else str(figure.n))
    return table
