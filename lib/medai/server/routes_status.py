"""``/medai/status``: where the session stands; a route of our own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from medai.active_learning.strategies import DEFAULT_STRATEGY
from medai.errors import InputError
from medai.server.access import App, CheckedRoute, Threads, Viewer
from medai.server.app import MedaiApp
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse
from medai.workflows.session_status import QUEUE_LENGTH, session_status

router = APIRouter(prefix="/medai/status", tags=["Status"], route_class=CheckedRoute)

LONGEST_QUEUE = 200

LOOK_S = 1.0
"""How long labels that were just put into the study are waited for; later ones are in the next answer."""


@router.get("")
async def status(
    app: App, lanes: Threads, user: Viewer, strategy: str = DEFAULT_STRATEGY, queue: int = QUEUE_LENGTH
) -> JSONResponse:
    """What is labelled and left, what the model gained, whether another case is worth it, the queue, who is at work."""
    return PlainJSONResponse(await lanes.run(Lane.QUICK, _status, app, strategy, queue))


def _status(app: MedaiApp, strategy: str, queue_length: int) -> dict[str, Any]:
    if not 0 <= queue_length <= LONGEST_QUEUE:
        raise InputError(f"'queue' is {queue_length}; it takes 0 to {LONGEST_QUEUE} cases.")
    app.annotations.look_on(LOOK_S)
    warnings = [*app.clients.warnings(), *(app.audit.warnings() if app.audit else ())]
    return session_status(
        app.queue,
        app.models,
        strategy=strategy,
        queue_length=queue_length,
        passed_over=app.annotations.log.passed_over,
        warnings=warnings,
    ).to_json()
