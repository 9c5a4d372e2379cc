"""``/medai/models``: the models that answer and their cards, as JSON or as pages; routes of our own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from medai.errors import NotFoundError
from medai.server.access import App, CheckedRoute, Threads, Viewer
from medai.server.app import MedaiApp
from medai.server.card_page import card_page, history_page, models_page
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse
from medai.workflows.families import task_name
from medai.workflows.model_cards import list_models, listed_history, shown_card

router = APIRouter(prefix="/medai/models", tags=["Models"], route_class=CheckedRoute)


class CardFormat(StrEnum):
    """How a card is answered."""

    JSON = "json"
    HTML = "html"


Accept = Annotated[str, Header(alias="accept")]


@router.get("")
async def models(
    request: Request,
    app: App,
    lanes: Threads,
    user: Viewer,
    accept: Accept = "",
    format: CardFormat | None = None,  # noqa: A002  # the name in the query
) -> Response:
    """Each task, the version that answers, and its first figure."""
    found = await lanes.run(Lane.QUICK, list_models, app.models)
    if _wants_page(format, accept):
        return HTMLResponse(models_page(found, _prefix(request)))
    return PlainJSONResponse({"models": [model.to_json() for model in found]})


@router.get("/{task}/card")
async def card(
    task: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Viewer,
    version: str | None = None,
    accept: Accept = "",
    format: CardFormat | None = None,  # noqa: A002  # the name in the query
) -> Response:
    """The card of the version that answers, or of another one on disk; a page where the client asks for HTML."""
    shown = await lanes.run(Lane.QUICK, shown_card, app.models, task, version)
    prefix = f"{_prefix(request)}/{shown.version.task}"
    if _wants_page(format, accept):
        return HTMLResponse(card_page(shown, prefix))
    # Where a picture lies on the server's disk is nobody's business.
    return PlainJSONResponse(shown.to_json() | {"pictures": {name: f"{prefix}/{name}" for name in shown.pictures}})


@router.get("/{task}/history")
async def history(
    task: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Viewer,
    accept: Accept = "",
    format: CardFormat | None = None,  # noqa: A002  # the name in the query
) -> Response:
    """What was decided about the task's models, oldest first: promoted, refused and why, rolled back."""
    events = await lanes.run(Lane.QUICK, listed_history, app.models, task)
    if _wants_page(format, accept):
        return HTMLResponse(history_page(task_name(task), events))
    return PlainJSONResponse({"task": task_name(task), "events": [event.to_json() for event in events]})


@router.get("/{task}/pictures/{name}")
async def picture(task: str, name: str, app: App, lanes: Threads, user: Viewer) -> FileResponse:
    """A picture that the packaged card names."""
    path = await lanes.run(Lane.QUICK, _picture, app, task, f"pictures/{name}")
    return FileResponse(path, media_type="image/png")


def _picture(app: MedaiApp, task: str, name: str) -> str:
    shown = shown_card(app.models, task)
    if name not in shown.pictures:
        raise NotFoundError(f"The card of '{shown.version.task}' has no picture '{name}'.")
    return str(shown.pictures[name])


def _wants_page(form: CardFormat | None, accept: str) -> bool:
    """A page where it is asked for by name, or by a browser."""
    return form is CardFormat.HTML if form is not None else "text/html" in accept


def _prefix(request: Request) -> str:
    """Path of these routes as the client sees it."""
    path: str = request.url.path
    return path[: path.index("/medai/models")] + "/medai/models"
