"""``/train/`` and ``/scoring/``: long work in the background, seen through MONAI Label's task records."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request
from fastapi.responses import JSONResponse

from medai.server.access import Admin, Annotator, App, Every, Running, Threads, Viewer
from medai.server.app import MedaiApp
from medai.server.background import TrainingBusyError
from medai.server.case_jobs import JobBusyError, wanted_record
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse
from medai.workflows.families import ALIASES

router = APIRouter()


@router.get("/train/", tags=["Train"])
async def train_status(app: App, user: Viewer, every: Every = False, only_running: Running = False) -> JSONResponse:
    """The latest training, every training (``all``), or the running one."""
    return PlainJSONResponse(wanted_record(app.trainings, "training", every=every, only_running=only_running))


@router.post("/train/", tags=["Train"], include_in_schema=False)
async def train_all(app: App, user: Admin, params: Annotated[dict[str, Any] | None, Body()] = None) -> JSONResponse:
    """Start every trainer, one after the other."""
    asked = {ALIASES.get(model, model): values for model, values in (params or {}).items()}
    records = {}
    for model in app.trainer_names:
        request = {"model": model, **(asked.get(model) or {})}
        record, _ = app.trainings.start(app.trainer(model).job(request), request, enqueue=True)
        records[model] = {"result": record, "detail": None}
    return PlainJSONResponse(records)


@router.post("/train/{model}", tags=["Train"])
async def train(
    model: str,
    app: App,
    user: Admin,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    run_sync: bool = False,
    enqueue: bool = False,
) -> JSONResponse:
    """Start a training; 429 where one runs and ``enqueue`` is not given."""
    request = {"model": model, **(params or {})}
    job = app.trainer(model).job(request)
    try:
        record, ended = app.trainings.start(job, request, enqueue=enqueue)
    except TrainingBusyError as error:
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, str(error)) from error
    if run_sync:
        await asyncio.wrap_future(ended)
        record = app.trainings.record(record["id"])
    return PlainJSONResponse(record)


@router.delete("/train/", tags=["Train"])
async def stop_training(app: App, lanes: Threads, user: Admin) -> JSONResponse:
    """Stop the training and those that wait; the model in use stays."""
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, app.trainings.stop))


@router.get("/scoring/", tags=["Scoring"])
async def scoring_status(
    request: Request, user: Viewer, every: Every = False, only_running: Running = False
) -> JSONResponse:
    """The latest scoring, every scoring (``all``), or the running one."""
    scorings = request.app.state.scoring.jobs
    return PlainJSONResponse(wanted_record(scorings, "scoring", every=every, only_running=only_running))


@router.post("/scoring/", tags=["Scoring"], include_in_schema=False)
async def score_all(
    request: Request, app: App, lanes: Threads, user: Annotator, run_sync: bool = False
) -> JSONResponse:
    """Start every scoring method."""
    records = {}
    for method in app.scoring_methods:
        records[method] = {"result": await _score(request, app, lanes, method, run_sync=run_sync), "detail": None}
    return PlainJSONResponse(records)


@router.post("/scoring/{method}", tags=["Scoring"])
async def score(
    method: str, request: Request, app: App, lanes: Threads, user: Annotator, run_sync: bool = False
) -> JSONResponse:
    """Score what is due in the background; while that runs, asking again changes nothing."""
    return PlainJSONResponse(await _score(request, app, lanes, method, run_sync=run_sync))


@router.delete("/scoring/", tags=["Scoring"])
async def stop_scoring(request: Request, lanes: Threads, user: Annotator) -> JSONResponse:
    """End the scoring; by itself it begins again only after it was asked for, or after a restart of the server."""
    return PlainJSONResponse(await lanes.run(Lane.QUICK, request.app.state.scoring.stop) or {})


async def _score(request: Request, app: MedaiApp, lanes: Threads, method: str, *, run_sync: bool) -> Any:
    app.scoring_method(method)
    scoring = request.app.state.scoring
    try:
        job_id, ended = await lanes.run(Lane.QUICK, scoring.start, {"method": method})
    except JobBusyError:
        return scoring.jobs.running() or {}
    if run_sync:
        await asyncio.wrap_future(ended)
    return scoring.jobs.record(job_id)
