"""What the server offers, which case comes next, and the weights it answers with."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import FileResponse, JSONResponse

from medai.errors import MedaiError, NotFoundError
from medai.server.access import Admin, Annotator, App, CheckedRoute, Threads, Viewer, hand_out, identify
from medai.server.app import MedaiApp
from medai.server.audit import note
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse, json_of

logger = logging.getLogger(__name__)

router = APIRouter(tags=["App"], route_class=CheckedRoute)

_HASH_BYTES = 1 << 20


@router.get("/info/")
async def info(app: App, lanes: Threads, user: Viewer) -> JSONResponse:
    """Models, trainers, strategies, progress of the study and of a training."""
    return await lanes.run(Lane.QUICK, json_of, app.info)


@router.post("/activelearning/{strategy}")
async def next_sample(
    strategy: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Annotator,
    params: Annotated[dict[str, Any] | None, Body()] = None,
) -> JSONResponse:
    """The next case for this annotator, reserved.

    When none is left the answer has no ``id``; it has a ``message`` where that is for another reason than that every
    case is labelled or taken.
    """
    identity = identify(request, user, (params or {}).get("client_id"))
    asked = {**(params or {}), "client_id": identity.client_id}
    sample = await lanes.run(Lane.QUICK, _next_sample, app, strategy, asked)
    if sample.get("id"):
        note(request.scope, case=sample["id"])
        hand_out(request, user, sample["id"])
        lanes.submit(Lane.TRANSFER, _prepare, app, sample["id"])
    return PlainJSONResponse(sample)


@router.get("/model/info/{model}")
async def model_info(model: str, app: App, lanes: Threads, user: Admin) -> JSONResponse:
    """Checksum, time and version of the weights behind a task."""
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, _model_info, app, model))


@router.get("/model/{model}")
async def download_model(model: str, app: App, lanes: Threads, user: Admin) -> FileResponse:
    """The weights behind a task."""
    version = await lanes.run(Lane.QUICK, app.model_version, model)
    return FileResponse(version.weights_path, filename=f"{model}-{version.version_id}.safetensors")


@router.get("/logs/", include_in_schema=False)
@router.get("/logs/gpu", include_in_schema=False)
async def logs(user: Viewer) -> JSONResponse:
    """In words why there is nothing: what a log says is for whoever runs the server."""
    raise NotFoundError(
        "medai does not show its log over HTTP. On the server's machine it is .medai/logs/server.log in the study's "
        "folder; GET /train/, /scoring/ and /medai/status say how trainings, scoring and the session stand."
    )


def _next_sample(app: MedaiApp, strategy: str, request: dict[str, Any]) -> dict[str, Any]:
    sample: dict[str, Any] | None = app.strategy(strategy)(request, app.datastore())
    if not sample:
        message = app.queue.nothing_left_words() if not app.queue.open_cases() else ""
        if message:
            logger.warning("There is no next case: %s", message)
        return {"message": message} if message else {}
    given = app.served.expected_path(sample["id"])
    if given != app.study.image_path(sample["id"]):
        # The copy may not be there yet: the plugin then downloads it, which waits for it.
        sample["name"] = given.name
        if "path" in sample:
            sample["path"] = str(given)
    return sample


def _prepare(app: MedaiApp, case_id: str) -> None:
    try:
        app.prepare_case(case_id)
    except MedaiError as error:
        logger.warning("%s could not be prepared: %s", case_id, error)


def _model_info(app: MedaiApp, model: str) -> dict[str, Any]:
    version = app.model_version(model)
    return {
        "checksum": f"SHA256:{sha256_of(version.weights_path)}",
        "modified_time": int(version.weights_path.stat().st_mtime),
        "version": version.version_id,
    }


def sha256_of(path: Path, algorithm: str = "sha256") -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
