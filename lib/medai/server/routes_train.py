"""``/train/`` and ``/scoring/``: long work in the background, seen through MONAI Label's task records."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request
from fastapi.responses import JSONResponse

from medai.errors import InputError
from medai.server.access import Admin, Annotator, App, CheckedRoute, Every, Running, Threads, Viewer
from medai.server.app import MedaiApp
from medai.server.background import TrainingBusyError
from medai.server.case_jobs import JobBusyError, wanted_record
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse
from medai.workflows.families import ALIASES

router = APIRouter(route_class=CheckedRoute)


@router.get("/train/", tags=["Train"])
async def train_status(app: App, user: Viewer, every: Every = False, only_running: Running = False) -> JSONResponse:
    """The latest training, every training (``all``), or the running one."""
    return PlainJSONResponse(wanted_record(app.trainings, "training", every=every, only_running=only_running))


@router.post("/train/", tags=["Train"], include_in_schema=False)
async def train_all(
    app: App,
    lanes: Threads,
    user: Admin,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    run_sync: bool = False,
) -> JSONResponse:
    """Start every trainer, one after the other; parameters under a trainer's name are its own, the others all's."""
    # All are checked before the first starts.
    requests = _requests_of_all(app, params or {})
    jobs = {model: app.trainer(model).job(request) for model, request in requests.items()}
    records: dict[str, dict[str, Any]] = {}
    waits: dict[str, Future[None]] = {}
    for model, job in jobs.items():
        words = app.trainer(model).unused_words(requests[model])
        start = partial(app.trainings.start, job, requests[model], enqueue=True, words=words)
        try:
            record, waits[model] = await lanes.run(Lane.QUICK, start)
            records[model] = {"result": record, "detail": None}
        except TrainingBusyError as error:
            records[model] = {"result": None, "detail": str(error)}
    if run_sync:
        for model, ended in waits.items():
            records[model]["result"] = await _final_record(app, records[model]["result"]["id"], ended)
    return PlainJSONResponse(records)


@router.post("/train/{model}", tags=["Train"])
async def train(
    model: str,
    app: App,
    lanes: Threads,
    user: Admin,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    run_sync: bool = False,
    enqueue: bool = False,
) -> JSONResponse:
    """Start a training; 429 where one runs and ``enqueue`` is not given, or where too many wait."""
    request = {"model": model, **(params or {})}
    trainer = app.trainer(model)
    job = trainer.job(request)
    start = partial(app.trainings.start, job, request, enqueue=enqueue, words=trainer.unused_words(request))
    try:
        record, ended = await lanes.run(Lane.QUICK, start)
    except TrainingBusyError as error:
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, str(error)) from error
    if run_sync:
        record = await _final_record(app, record["id"], ended)
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


def _requests_of_all(app: MedaiApp, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The request of each trainer: what is said for all, then what stands under its own name.

    Raises:
        InputError: an object under a name that is no trainer's.
    """
    own: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            model = ALIASES.get(name, name)
            if model not in app.trainer_names:
                raise InputError(f"'{name}' is no trainer; they are {', '.join(app.trainer_names)}.")
            own[model] = value
    for_all = {name: value for name, value in params.items() if not isinstance(value, dict)}
    return {model: {**for_all, **own.get(model, {}), "model": model} for model in app.trainer_names}


async def _final_record(app: MedaiApp, task_id: str, ended: Future[None]) -> dict[str, Any]:
    """The record of a training that has ended, however; 503 where the server ends before it could begin."""
    try:
        await asyncio.wrap_future(ended)
    except asyncio.CancelledError:
        if not ended.cancelled():
            raise
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE, "The server is shutting down; the training waits for the next start."
        ) from None
    return app.trainings.record(task_id)


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
