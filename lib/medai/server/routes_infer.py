"""``/infer/{model}`` and ``/batch/infer``: a task's answer for one scan, or for many in the background."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType

from medai.domain import Prediction
from medai.errors import InputError, StorageError
from medai.server.access import Admin, App, CheckedRoute, Every, Running, Threads, Viewer, check_role, identify
from medai.server.app import MedaiApp
from medai.server.case_jobs import CaseJob, JobBusyError, in_scan_lane, wanted_record
from medai.server.infer_request import RESULT_EXTENSIONS, InferReply, InferRequest
from medai.server.lanes import Lane, Lanes
from medai.server.replies import PlainJSONResponse, multipart_reply, plain
from medai.server.request_body import is_true, json_object, store_upload
from medai.server.roles import Role
from medai.server.sessions import session_scan
from medai.server.uploads import IMAGE_UPLOAD_EXTENSIONS
from medai.store.answers import ORIGINAL, check_answer_tag
from medai.store.names import check_tag
from medai.workflows.executors import CaseExecutor, CaseOutcome
from medai.workflows.present_models import MakePredictor

logger = logging.getLogger(__name__)

router = APIRouter(tags=["Infer"], route_class=CheckedRoute)

PREDICTED_TASKS = ("nodule_segmentation", "nodule_detection")
"""Tasks whose work is a whole-scan prediction, which other processes can make too."""


class Output(StrEnum):
    """What of the answer is wanted."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"
    DICOM_SEG = "dicom_seg"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the scan of a request comes from: a case of the study, an uploaded file, or a session."""

    image: str
    session_id: str
    file: UploadFile | None
    label: UploadFile | None
    client_id: str


@router.post("/infer/{model}")
async def infer(
    model: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Viewer,
    image: str = "",
    session_id: str = "",
    output: Output | None = None,
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Run a task on a scan; answers with its parameters (JSON) and its file in one multipart body."""
    task = app.infer_task(model)
    if output is Output.DICOM_SEG:
        raise InputError("'output=dicom_seg' is not offered yet; the outputs are image, json and all.")
    values = json_object(params, "params")
    keeps = is_true(values.get("save_label")) and bool(image) and not session_id and file is None
    if is_true(values.get("save_label")):
        check_role(user, Role.ANNOTATOR)
    client_id = identify(request, user, values.get("client_id")).client_id
    if keeps:
        await lanes.run(Lane.QUICK, _check_kept, app, image, values)
    source = _Source(image=image, session_id=session_id, file=file, label=label, client_id=client_id)
    # A click sends no file, and waits for no folder.
    folder = Path(await lanes.run(Lane.QUICK, tempfile.mkdtemp, prefix="medai-infer-")) if file or label else None
    try:
        lane = Lane.TRANSFER if folder else Lane.QUICK
        asked = await lanes.run(lane, _open, app, source, values, folder)
        reply = await lanes.run(task.lane, task.answer, asked)
        if asked.case_id:
            app.annotations.remember(asked.case_id, client_id, model, task.proposes, reply)
        if keeps:
            await lanes.run(Lane.TRANSFER, _keep, app, model, asked, reply)
    finally:
        if folder is not None:
            # In no lane: one that is full would leave the upload on the disk.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, _discard, app, folder))
    return _response(reply, output)


@router.get("/batch/infer")
async def batch_status(
    request: Request, user: Viewer, every: Every = False, only_running: Running = False
) -> JSONResponse:
    """The latest batch, every batch (``all``), or the running one."""
    batches = request.app.state.batches
    return PlainJSONResponse(wanted_record(batches, "batch inference", every=every, only_running=only_running))


@router.post("/batch/infer/{model}")
async def start_batch(
    model: str,
    request: Request,
    app: App,
    lanes: Threads,
    user: Admin,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    run_sync: bool = False,
) -> JSONResponse:
    """Run a task on all, the labelled or the unlabelled cases and keep the answers as labels."""
    values = params or {}
    tag = str(values.get("label_tag") or ORIGINAL)
    task = app.infer_task(model)
    case_ids = await lanes.run(Lane.QUICK, _batch_cases, app, images, values)
    keep = is_true(values.get("save_label", True))

    if keep:
        check_answer_tag(tag)

    def work(case_id: str) -> dict[str, Any]:
        if keep:
            app.study.check_answer(case_id, tag)
        asked = InferRequest(
            scan_path=app.study.image_path(case_id), case_id=case_id, params={**values, "label_tag": tag}
        )
        reply = task.answer(asked)
        if keep:
            _keep(app, model, asked, reply)
        return {"label": case_id if keep else "", "tag": tag, "params": reply.params}

    job = CaseJob(case_ids=case_ids, work=work, request={**values, "model": model, "images": images.value})
    if app.batch_executor is not None and model in PREDICTED_TASKS:
        job = _predicted_elsewhere(job, app, lanes, app.batch_executor)
    jobs = request.app.state.batches
    try:
        job_id, ended = jobs.start(job)
    except JobBusyError as error:
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, str(error)) from error
    if run_sync:
        await asyncio.wrap_future(ended)
        return PlainJSONResponse(jobs.record(job_id)["result"])
    return PlainJSONResponse(jobs.record(job_id))


@router.delete("/batch/infer")
async def stop_batch(request: Request, user: Admin) -> JSONResponse:
    """End the running batch after its present case."""
    return PlainJSONResponse(request.app.state.batches.stop() or {})


def _predicted_elsewhere(job: CaseJob, app: MedaiApp, lanes: Lanes, executor: CaseExecutor) -> CaseJob:
    """The job with its predictions made by others; what is made of them is made here, in the scan lane as ever."""

    def finish(outcome: CaseOutcome[Prediction]) -> Any:
        if outcome.result is None:
            return None
        app.predictions.keep(app.study.image_path(outcome.case_id), outcome.result)
        return in_scan_lane(lanes, job.work, outcome.case_id)

    predictor = MakePredictor(studies=app.study.folder, device=app.options.device)
    return replace(job, keep=finish, elsewhere=(executor, predictor))


def _discard(app: MedaiApp, folder: Path) -> None:
    """Delete uploads with all that is kept of them."""
    shutil.rmtree(folder, ignore_errors=True)
    app.scans.forget(folder)


def _open(app: MedaiApp, source: _Source, params: Mapping[str, Any], folder: Path | None) -> InferRequest:
    """Find the scan; uploads are copied into ``folder``."""
    label_path = None
    if source.label is not None and folder is not None:
        label_path = store_upload(source.label, folder, extensions=RESULT_EXTENSIONS, stem="label")
    if source.file is not None and folder is not None:
        scan_path = store_upload(source.file, folder, extensions=IMAGE_UPLOAD_EXTENSIONS, stem="scan")
        return InferRequest(scan_path=scan_path, params=params, label_path=label_path)
    if source.session_id:
        return InferRequest(scan_path=session_scan(app, source.session_id), params=params, label_path=label_path)
    if not source.image:
        raise InputError("Which scan? Give a case id ('image'), a 'session_id', or upload a 'file'.")
    # Only ids of the study: MONAI Label would take any path that exists on the server.
    scan_path = app.study.image_path(source.image)
    try:
        app.reservations.renew(source.image, source.client_id)
    except StorageError as error:
        # A click is answered also where nothing can be written.
        logger.warning("The reservation of %s is not renewed: %s", source.image, error)
    return InferRequest(scan_path=scan_path, case_id=source.image, params=params, label_path=label_path)


def _check_kept(app: MedaiApp, case_id: str, params: Mapping[str, Any]) -> None:
    """Refuse before the work is done what could not be kept afterwards."""
    tag = check_tag(str(params.get("label_tag") or ORIGINAL))
    check_answer_tag(tag)
    app.study.check_answer(case_id, tag)


def _keep(app: MedaiApp, model: str, request: InferRequest, reply: InferReply) -> None:
    """Store an answer as a label of the study (tag ``original`` unless the client names another)."""
    tag = str(request.params.get("label_tag") or ORIGINAL)
    check_answer_tag(tag)
    with tempfile.TemporaryDirectory(prefix="medai-") as folder:
        path = Path(folder) / f"label{reply.extension}"
        path.write_bytes(reply.payload)
        app.study.save_answer(request.case_id, path, tag, {"model": model, "params": plain(reply.params)})


def _batch_cases(app: MedaiApp, images: BatchInferImageType, values: Mapping[str, Any]) -> list[str]:
    if images is BatchInferImageType.IMAGES_LABELED:
        case_ids = app.study.labeled()
    elif images is BatchInferImageType.IMAGES_UNLABELED:
        case_ids = app.study.unlabeled()
    else:
        case_ids = app.study.image_ids()
    largest = values.get("max_batch_size") or 0
    if isinstance(largest, bool) or not isinstance(largest, int) or largest < 0:
        raise InputError(f"'max_batch_size' is {largest!r}; it takes a whole number, 0 for all.")
    return sorted(case_ids)[: largest or None]


def _response(reply: InferReply, output: Output | None) -> Response:
    if output is Output.JSON:
        return PlainJSONResponse(reply.params)
    # The plugin writes the file under this name on the annotator's machine, where several may lie at once.
    file_name = f"medai-{uuid.uuid4().hex[:12]}{reply.extension}"
    if output is Output.IMAGE:
        disposition = {"Content-Disposition": f'attachment; filename="{file_name}"'}
        return Response(reply.payload, media_type=reply.media_type, headers=disposition)
    return multipart_reply(reply.params, payload=reply.payload, file_name=file_name, media_type=reply.media_type)
