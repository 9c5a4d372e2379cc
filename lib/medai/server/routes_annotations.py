"""``/medai/annotations``: the history of the study's labels; a route of our own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from medai.domain.annotation import ReviewState
from medai.errors import InputError
from medai.server.access import Annotator, App, CheckedRoute, Threads
from medai.server.app import MedaiApp
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse
from medai.workflows.annotation_history import annotation_to_json

router = APIRouter(prefix="/medai/annotations", tags=["Annotations"], route_class=CheckedRoute)


@router.get("")
async def list_annotations(
    app: App,
    lanes: Threads,
    user: Annotator,
    annotator: str | None = None,
    case: str | None = None,
    quarantined: bool | None = None,
    review: str | None = None,
) -> JSONResponse:
    """Every label that was ever submitted and fits, oldest first: who, when, from what, how much was corrected."""
    found = await lanes.run(Lane.QUICK, _listed, app, annotator, case, quarantined, review)
    return PlainJSONResponse({"annotations": found})


def _listed(
    app: MedaiApp, annotator: str | None, case: str | None, quarantined: bool | None, review: str | None
) -> list[dict[str, Any]]:
    state = None
    if review is not None:
        words = [each.value for each in ReviewState]
        if review not in words:
            raise InputError(f"'review' is '{review}'; it takes {', '.join(repr(word) for word in words)}.")
        state = ReviewState(review)
    found = app.annotations.log.all(
        annotator=annotator, case_id=case, is_quarantined=quarantined, review=state, with_deleted=True
    )
    return [annotation_to_json(annotation) for annotation in found]
