"""A model card as a page for the browser: plain HTML, no script, its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from medai.registry.cards import CardFigure, StarterCard, StudyCard
from medai.registry.history import HistoryEvent
from medai.workflows.model_cards import ModelSummary, ShownCard

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;margin:.6rem 0}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td.n{text-align:right}
code{word-break:break-all}.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:.8rem}
img{max-width:100%;background:#000}figcaption{font-size:.85rem}.dim{color:#666}
"""


def card_page(shown: ShownCard, prefix: str) -> str:
    """The page of one card.

    Args:
        shown: the card.
        prefix: path of the task's routes: ``/medai/models/nodule_click``.
    """
    card = shown.card
    if isinstance(card, StarterCard):
        return _page(f"{card.task}: {card.name}", _starter(card, shown, prefix))
    return _page(f"{shown.version.task}: {card.version_id}", _study(card, shown))


def history_page(task: str, events: Iterable[HistoryEvent]) -> str:
    """The page of what was decided about a task's models, latest first."""
    rows = [
        [
            escape(event.at),
            escape(event.kind),
            escape(event.version_id or event.former),
            escape(event.reason),
            escape(event.who or "the gate"),
        ]
        for event in reversed(list(events))
    ]
    heads = ["when (UTC)", "what", "answers since", "why", "who"]
    return _page(f"{task}: history", f"<h1>{escape(task)}: history</h1>{_table(heads, rows)}")


def models_page(models: Iterable[ModelSummary], prefix: str) -> str:
    """The page of all models, each linked to its card."""
    rows = []
    for model in models:
        link = f'<a href="{prefix}/{quote(model.task)}/card?format=html">{escape(model.task)}</a>'
        figure = f"{escape(model.figure.name)}: {_value(model.figure)}" if model.figure else ""
        past = f'<a href="{prefix}/{quote(model.task)}/history?format=html">history</a>'
        rows.append([link, escape(model.version_id or "none"), escape(model.words), figure, past])
    return _page("Models", "<h1>Models</h1>" + _table(["task", "answers", "what", "figure", ""], rows))


def _starter(card: StarterCard, shown: ShownCard, prefix: str) -> str:
    facts = [
        ["Version", f"{escape(card.version_id)}, {escape(card.date)}"],
        ["Weights", f"<code>sha256 {card.weights_sha256}</code>"],
        ["Data", escape(card.data.name)],
        ["Licence", escape(card.data.licence)],
        ["Attribution", escape(card.data.attribution)],
        ["Truth", escape(card.data.truth)],
        ["Split", escape(card.data.split)],
        ["Training", escape(card.training.how)],
        ["Configuration", f"<code>{escape(str(card.training.config))}</code>"],
    ]
    groups = "".join(
        f"<h3>{escape(group.measure)} by {escape(group.by)}</h3>{_figures(group.rows)}" for group in card.metrics.groups
    )
    failures = card.known_failures
    pictures = "".join(
        f'<figure><img loading="lazy" src="{prefix}/{quote(failure.picture)}" alt="{escape(failure.case_id)}">'
        f"<figcaption>{escape(failure.case_id)}: {escape(failure.words)}</figcaption></figure>"
        for failure in failures.cases
    )
    legend = escape(str((failures.model_extra or {}).get("legend", "")))
    return (
        f"<h1>{escape(card.task)}: {escape(card.name)}</h1>{_table([], facts)}"
        f"<h2>Figures</h2><p>{escape(card.metrics.what)}.</p>{_figures(card.metrics.figures)}{groups}"
        f"<h2>Known failures</h2><p>{escape(failures.what)}. {legend}</p>{_list(failures.in_common)}"
        f'<div class="cases">{pictures}</div>'
        f"<h2>Limits</h2>{_list(card.limits)}"
    )


def _study(card: StudyCard, shown: ShownCard) -> str:
    facts = [
        ["Published", escape(card.published_at)],
        ["Weights", f"<code>sha256 {card.weights_sha256}</code>"],
        ["Trained from", escape(card.trained_from)],
        ["Trained on", f"{len(card.trained_on)} cases: {escape(', '.join(card.trained_on))}"],
        ["Their labels", _digests(card, card.trained_on)],
        ["Judged on", f"{len(card.judged_on)} cases of other patients: {escape(', '.join(card.judged_on))}"],
        ["Training", f"{card.epochs} epochs, seed {card.seed}"],
        ["Verdict", escape(str(shown.version.verdict.get("reason", "")))],
    ]
    return f"<h1>{escape(shown.version.task)}: {escape(card.version_id)}</h1>{_table([], facts)}"


def _digests(card: StudyCard, cases: Iterable[str]) -> str:
    """The start of each label's sha256."""
    known = [f"{escape(case)}: {escape(card.label_sha256[case][:12])}" for case in cases if case in card.label_sha256]
    return f"<code>sha256 {', '.join(known)}</code>" if known else "not recorded"


def _figures(figures: Iterable[CardFigure]) -> str:
    rows = [[escape(f.name), _value(f), "" if f.n is None else str(f.n)] for f in figures]
    return _table(["", "value (95 % interval)", "n"], rows)


def _value(figure: CardFigure) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in heads) + "</tr>" if heads else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} · medai</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><body>{body}'
        '<p class="dim">For research and annotation only, not a medical device.</p></body></html>'
    )
