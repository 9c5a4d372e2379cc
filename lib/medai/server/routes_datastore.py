"""``/datastore/``: scans and labels in and out."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mimetypes
import tempfile
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.config import settings as platform
from monailabel.endpoints.user.auth import User
from starlette.background import BackgroundTask

from medai.errors import InputError, NotFoundError
from medai.server.access import (
    Admin,
    Annotator,
    App,
    CheckedRoute,
    HandedOutViewer,
    Identity,
    Threads,
    Viewer,
    identify,
    signed,
    without_own_approval,
)
from medai.server.annotation_recorder import Reviewer
from medai.server.app import MedaiApp
from medai.server.audit import note
from medai.server.dicom_slices import single_slice, take_slice
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse, json_of
from medai.server.request_body import json_object, store_upload
from medai.server.roles import Role, may
from medai.server.routes_app import sha256_of
from medai.server.uploads import (
    IMAGE_UPLOAD_EXTENSIONS,
    LABEL_UPLOAD_EXTENSIONS,
    CheckedLabel,
    UploadLimits,
    check_image_upload,
    check_label_upload,
)
from medai.store.answers import check_answer_tag, is_sent_answer
from medai.store.names import check_tag
from medai.store.study import FINAL
from medai.volume_io.dicom_headers import looks_like_dicom
from medai.volume_io.label_names import read_label_info
from medai.volume_io.readers import read_geometry

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/datastore", tags=["Datastore"], route_class=CheckedRoute)


UNPROVEN_REVIEWER = (
    "This server has no logins: that nobody approves their own label cannot be held, and the reviewer's name is what "
    "was sent."
)


class Output(StrEnum):
    """How much of the study is wanted."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


@router.get("/")
async def study(app: App, lanes: Threads, user: Viewer, output: Output = Output.STATS) -> JSONResponse:
    """Totals, the pairs a training would read, or everything."""
    store = app.datastore()
    if output is Output.TRAIN:
        return await lanes.run(Lane.TRANSFER, json_of, _train_pairs, app)
    return await lanes.run(Lane.QUICK, json_of, {Output.ALL: store.json, Output.STATS: store.status}[output])


@router.put("/", include_in_schema=False)
@router.put("/image")
async def add_image(
    request: Request,
    app: App,
    lanes: Threads,
    user: Annotator,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> JSONResponse:
    """Upload a scan; its id is ``image``, else the file's name without its ending. See ``dicom_slices`` for slices."""
    info = signed(json_object(params, "params"), user)
    reply = await lanes.run(Lane.TRANSFER, _add_image, app, image, file, info)
    note(request.scope, case=reply["image"])
    return PlainJSONResponse(reply)


@router.delete("/", include_in_schema=False)
@router.delete("/image")
async def remove_image(id: str, app: App, lanes: Threads, user: Admin) -> JSONResponse:  # noqa: A002  # MONAI Label's name
    """Delete a scan and its labels."""
    await lanes.run(Lane.TRANSFER, app.datastore().remove_image, id)
    app.reservations.release(id)
    logger.info("%s removed by %s", id, user.username)
    return PlainJSONResponse({})


@router.head("/image")
async def check_image(image: str, app: App, lanes: Threads, user: Viewer, check_sum: str | None = None) -> Response:
    """200 where the scan is there (and has that checksum, ``SHA256:…``), else 404."""
    path = await lanes.run(Lane.TRANSFER, app.served.path, image)
    if check_sum and not await lanes.run(Lane.TRANSFER, _has_digest, path, check_sum):
        raise HTTPException(HTTPStatus.NOT_FOUND, f"The scan '{image}' has another checksum.")
    return Response()


@router.get("/image")
async def download_image(image: str, app: App, lanes: Threads, user: HandedOutViewer) -> FileResponse:
    """The scan's file, or a right-handed copy of a left-handed scan (``served_scans``)."""
    return _file(await lanes.run(Lane.TRANSFER, app.served.path, image))


@router.get("/image/info")
async def image_info(image: str, app: App, lanes: Threads, user: Viewer) -> JSONResponse:
    """What is known about a scan; nothing of one that is not there, as stock MONAI Label answers."""
    return PlainJSONResponse(await lanes.run(Lane.QUICK, _known, app.datastore().get_image_info, image))


@router.put("/image/info")
async def change_image_info(
    image: str, app: App, lanes: Threads, user: Annotator, info: Annotated[str, Form()] = "{}"
) -> JSONResponse:
    """Add to what is known about a scan."""
    content = signed(json_object(info, "info"), user)
    await lanes.run(Lane.QUICK, app.datastore().update_image_info, image, content)
    return PlainJSONResponse({})


@router.put("/label")
async def save_label(
    image: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Annotator,
    label: Annotated[UploadFile, File()],
    tag: str = FINAL,
    params: Annotated[str, Form()] = "{}",
) -> JSONResponse:
    """Submit a label; it is checked against the scan before anything is stored, and kept in the history for good."""
    sent = json_object(params, "params")
    by = identify(request, user, sent.get("client_id"))
    info = without_own_approval(signed(sent, user, by))
    save = _save_answer if is_sent_answer(sent, tag or FINAL) else _save_label
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, save, app, image, label, tag or FINAL, info, by))


@router.delete("/label")
async def remove_label(id: str, tag: str, app: App, lanes: Threads, user: Admin) -> JSONResponse:  # noqa: A002  # MONAI Label's name
    """Delete a label."""
    await lanes.run(Lane.TRANSFER, app.datastore().remove_label, id, tag)
    logger.info("Label '%s' of %s removed by %s", tag, id, user.username)
    return PlainJSONResponse({})


@router.head("/label")
async def check_label(app: App, lanes: Threads, user: Viewer, tag: str, image: str = "", label: str = "") -> Response:
    """200 where the case has a label of that tag, else 404."""
    await lanes.run(Lane.QUICK, app.study.label_path, image or label, tag)
    return Response()


@router.get("/label")
async def download_label(label: str, tag: str, app: App, lanes: Threads, user: Viewer) -> FileResponse:
    """The label's file."""
    return _file(await lanes.run(Lane.QUICK, app.study.label_path, label, tag))


@router.get("/label/info")
async def label_info(label: str, tag: str, app: App, lanes: Threads, user: Viewer) -> JSONResponse:
    """What is known about a label; nothing of one that is not there, as stock MONAI Label answers."""
    return PlainJSONResponse(await lanes.run(Lane.QUICK, _known, app.datastore().get_label_info, label, tag))


@router.put("/label/info")
async def change_label_info(
    label: str, tag: str, app: App, lanes: Threads, user: Annotator, info: Annotated[str, Form()] = "{}"
) -> JSONResponse:
    """Add to what is known about a label."""
    content = signed(json_object(info, "info"), user)
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, _update_label_info, app, label, tag, content, user))


@router.put("/updatelabelinfo", include_in_schema=False)
async def update_label_info(
    label: str, tag: str, app: App, lanes: Threads, user: Annotator, params: Annotated[str, Form()] = "{}"
) -> JSONResponse:
    """The same as ``/label/info``, as the plugin's reviewer calls it: ``segmentationMeta.status`` is its verdict."""
    content = signed(json_object(params, "params"), user)
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, _update_label_info, app, label, tag, content, user))


@router.get("/dataset")
async def download_dataset(app: App, lanes: Threads, user: Annotator, limit_cases: int | None = None) -> FileResponse:
    """Scans and accepted labels as a ZIP file; ``medai.json`` in it says how they were made and what was left out."""
    archive = await lanes.run(Lane.TRANSFER, _dataset, app, limit_cases)
    return FileResponse(
        archive,
        media_type="application/zip",
        filename="dataset.zip",
        background=BackgroundTask(archive.unlink, missing_ok=True),
    )


def _known(info: Callable[..., dict[str, Any]], *names: str) -> dict[str, Any]:
    try:
        return info(*names)
    except (NotFoundError, InputError):
        return {}


def _train_pairs(app: MedaiApp) -> list[dict[str, Any]]:
    app.annotations.look()
    pairs: list[dict[str, Any]] = app.datastore().datalist()
    return pairs


def _dataset(app: MedaiApp, limit_cases: int | None) -> Path:
    # A label that was put into the study leaves as one that was submitted: after it has been looked at and checked.
    app.annotations.look()
    app.annotations.wait()
    return Path(app.datastore().get_dataset_archive(limit_cases))


def _add_image(app: MedaiApp, image: str | None, upload: UploadFile, info: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="medai-upload-") as name:
        folder = Path(name)
        path = store_upload(upload, folder, extensions=IMAGE_UPLOAD_EXTENSIONS, unnamed=(".dcm", looks_like_dicom))
        if (one_slice := single_slice(path)) is not None:
            return take_slice(app.study, image or Path(upload.filename or "").stem, one_slice)
        checked = check_image_upload(
            path, file_name=upload.filename or "", case_id=image, output_folder=folder, limits=_limits(app)
        )
        return {"image": app.study.add_image(checked.path, case_id=checked.case_id, info=info)}


def _update_label_info(app: MedaiApp, case_id: str, tag: str, content: dict[str, Any], user: User) -> dict[str, Any]:
    """Add to what is known about a label; a reviewer's verdict goes into the history first."""
    reply: dict[str, Any] = {}
    meta = content.get("segmentationMeta")
    read_label_info(content)
    if isinstance(meta, Mapping) and "status" in meta:
        reply = _review(app, case_id, tag, meta, user)
    app.datastore().update_label_info(case_id, tag, content)
    return reply


def _review(app: MedaiApp, case_id: str, tag: str, meta: Mapping[str, Any], user: User) -> dict[str, Any]:
    """Take over a verdict; what is answered says who gave it, and whether that can be known."""
    if platform.MONAI_LABEL_AUTH_ENABLE:
        by = Reviewer(name=str(user.username), is_login=True, may_judge=may(user.roles, Role.REVIEWER))
    else:
        by = Reviewer(name=str(meta.get("approvedBy") or ""))
    state = app.annotations.review(case_id, tag, meta["status"], by)
    reply: dict[str, Any] = {"review": state.value, "by": by.name}
    return reply if by.is_login else {**reply, "warning": UNPROVEN_REVIEWER}


def _save_label(
    app: MedaiApp, image: str, upload: UploadFile, tag: str, params: dict[str, Any], by: Identity
) -> dict[str, Any]:
    with _checked_label(app, image, upload, tag, params) as checked:
        recorded = app.annotations.submit(image, checked, annotator=by.name, client_id=by.client_id)
    logger.info("Label '%s' of %s submitted", checked.tag, image)
    app.on_save_label(image, image)
    if checked.tag == FINAL:
        app.train_policy.label_submitted()
    reply: dict[str, Any] = {"image": image, "label": image, "tag": checked.tag}
    annotation = recorded.annotation
    reply["params"] = {"annotation_id": annotation.annotation_id}
    if recorded.notes:
        reply["params"]["notes"] = list(recorded.notes)
    if annotation.quarantine_reason:
        logger.warning("Label '%s' of %s is quarantined: %s", checked.tag, image, annotation.quarantine_reason)
        reply["params"]["quarantine"] = (
            f"The label is stored, but no training learns from it until somebody has looked: "
            f"{annotation.quarantine_reason}."
        )
    return reply


def _save_answer(
    app: MedaiApp, image: str, upload: UploadFile, tag: str, params: dict[str, Any], by: Identity
) -> dict[str, Any]:
    """Keep what a client says a model has made: no submission, and never in place of one."""
    check_answer_tag(check_tag(tag))
    app.study.check_answer(image, tag)
    with _checked_label(app, image, upload, tag, params) as checked:
        info = {**checked.info, "model": str(params.get("model") or "unnamed")}
        app.study.save_answer(image, checked.path, checked.tag, info)
    logger.info("A model's answer is kept as label '%s' of %s", checked.tag, image)
    return {"image": image, "label": image, "tag": checked.tag, "params": {}}


@contextlib.contextmanager
def _checked_label(
    app: MedaiApp, image: str, upload: UploadFile, tag: str, params: dict[str, Any]
) -> Iterator[CheckedLabel]:
    """An uploaded label, checked against its scan; its file is there inside the block."""
    scan_path = app.study.image_path(image)
    with tempfile.TemporaryDirectory(prefix="medai-upload-") as name:
        folder = Path(name)
        path = store_upload(upload, folder, extensions=LABEL_UPLOAD_EXTENSIONS)
        yield check_label_upload(
            path,
            scan=read_geometry(scan_path),
            tag=tag,
            params=params,
            output_folder=folder,
            limits=_limits(app),
        )


def _limits(app: MedaiApp) -> UploadLimits:
    return UploadLimits(largest_bytes=app.options.max_upload_mb << 20, budget=app.options.read_budget)


def _has_digest(path: Path, check_sum: str) -> bool:
    algorithm, _, digest = check_sum.rpartition(":")
    algorithm = (algorithm or "sha256").lower()
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise InputError(f"'{algorithm}' is no checksum known here; sha256 is.")
    return sha256_of(path, algorithm) == digest.lower()


def _file(path: Path) -> FileResponse:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=media_type, filename=path.name)
