"""Sessions: a scan uploaded for a while, without becoming a case of the study.

MONAI Label keeps each in a folder named by its id, and joins ids from the URL to that folder's path as they come; one
that names another folder could have it removed. Ids are therefore checked to be UUIDs before MONAI Label sees them.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.utils.sessions import SessionInfo, Sessions

from medai.errors import NotFoundError
from medai.server.access import Annotator, App, CheckedRoute, Threads, Viewer
from medai.server.app import MedaiApp
from medai.server.lanes import Lane
from medai.server.limits import busy
from medai.server.replies import PlainJSONResponse
from medai.server.session_upload import MOST_FILES, gather_scan

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/session", tags=["Session"], route_class=CheckedRoute)

_LONGEST_S = 7 * 24 * 3600
_CREATING = threading.Lock()
"""Held while a session is counted and kept, so that two do not take the last place."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@router.put("/", form_limits={"max_files": MOST_FILES})
async def create(
    app: App, lanes: Threads, user: Annotator, files: list[UploadFile], expiry: int = 0, uncompress: bool = False
) -> JSONResponse:
    """Upload one scan: a volume file, the slices of a DICOM series, or (``uncompress``) a ZIP of either.

    ``expiry`` is in seconds, at most the server's.
    """
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, _create, app, files, expiry, uncompress=uncompress))


@router.get("/{session_id}")
async def show(
    session_id: str, app: App, lanes: Threads, user: Viewer, update_ts: bool = False, image: bool = False
) -> Response:
    """What a session holds, or its scan (``image``)."""
    info = await lanes.run(Lane.QUICK, _session, app, session_id, update=update_ts)
    if image:
        return FileResponse(info.image, filename=Path(info.image).name)
    return PlainJSONResponse(info.to_json())


@router.delete("/{session_id}")
async def remove(session_id: str, app: App, lanes: Threads, user: Annotator) -> JSONResponse:
    """End a session and delete its scan."""
    return PlainJSONResponse(await lanes.run(Lane.QUICK, _remove, app, session_id))


def session_scan(app: MedaiApp, session_id: str) -> Path:
    """The scan of a session, which is kept alive by being asked for.

    Raises:
        NotFoundError: no such session, or it has expired.
    """
    return Path(_session(app, session_id, update=True).image)


def remove_expired(app: MedaiApp) -> int:
    """Delete the sessions that nobody has used for their time; returns how many."""
    sessions = _sessions(app)
    folder = Path(sessions.store_path)
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        if not _UUID.match(entry.name):
            continue
        info = _found(sessions, entry.name, update=False, fetch_cache=False)
        if info is None or _has_expired(info):
            _end(app, entry.name)
            removed += 1
    return removed


def _has_expired(info: SessionInfo) -> bool:
    return info.expiry > 0 and bool(info.last_access_ts + info.expiry < time.time())


def _end(app: MedaiApp, session_id: str) -> None:
    """Remove a session with everything that is kept of its scan."""
    sessions = _sessions(app)
    folder = Path(sessions.store_path) / session_id
    sessions.remove_session(session_id)
    app.scans.forget(folder)


def _found(sessions: Sessions, session_id: str, *, update: bool, fetch_cache: bool = True) -> SessionInfo | None:
    """A session; None where there is none, or what is known of it cannot be read."""
    try:
        return sessions.get_session(session_id, update_ts=update, fetch_cache=fetch_cache)
    except (ValueError, AttributeError) as error:
        logger.warning("Session %s is damaged: %s", session_id, error)
        return None


def _make_room(app: MedaiApp, needed: int) -> None:
    """Refuse a session where there are as many as are kept, or where they take as much room.

    Raises:
        HTTPException: 503, with the setting.
    """
    folder, options = Path(_sessions(app).store_path), app.options
    if not folder.is_dir():
        return
    remove_expired(app)
    kept = [entry for entry in folder.iterdir() if _UUID.match(entry.name)]
    if len(kept) >= options.max_sessions:
        raise busy(f"{len(kept)} sessions are open, as many as --conf max_sessions allows; end one, or")
    size = sum(_size_of(entry) for entry in kept)
    if size + needed > options.max_sessions_mb << 20:
        raise busy(
            f"The open sessions take {size >> 20} MB and this scan {needed >> 20} MB, more than the "
            f"{options.max_sessions_mb} MB of --conf max_sessions_mb; end one, or"
        )


def _size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _sessions(app: MedaiApp) -> Sessions:
    sessions: Sessions | None = app.sessions()
    if sessions is None:
        raise HTTPException(HTTPStatus.NOT_ACCEPTABLE, "Sessions are switched off (MONAI_LABEL_SESSIONS).")
    return sessions


def _session(app: MedaiApp, session_id: str, *, update: bool) -> SessionInfo:
    sessions = _sessions(app)
    info = _found(sessions, session_id, update=False) if _UUID.match(session_id) else None
    if info is not None and _has_expired(info):
        info = None
    if info is not None and update:
        info = _found(sessions, session_id, update=True)
    if info is None:
        raise NotFoundError(f"There is no session {ascii(session_id)[:60]}, or it has expired: upload the scan again.")
    return info


def _create(app: MedaiApp, uploads: list[UploadFile], expiry: int, *, uncompress: bool) -> dict[str, Any]:
    from medai.volume_io.readers import read_geometry

    with tempfile.TemporaryDirectory(prefix="medai-session-") as folder:
        scan = gather_scan(
            uploads,
            Path(folder),
            uncompress=uncompress,
            largest_bytes=app.options.max_upload_mb << 20,
            budget=app.options.read_budget,
        )
        read_geometry(scan, budget=app.options.read_budget)
        with _CREATING:
            _make_room(app, _size_of(scan))
            expiry = min(max(0, expiry), _LONGEST_S)
            session_id, info = _sessions(app).add_session(str(scan), expiry, session_id=str(uuid.uuid4()))
    logger.info("New session %s", session_id)
    return {"session_id": session_id, "session_info": info.to_json()}


def _remove(app: MedaiApp, session_id: str) -> dict[str, Any]:
    info = _session(app, session_id, update=False)
    _end(app, session_id)
    content: dict[str, Any] = info.to_json()
    return content
