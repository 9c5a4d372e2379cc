"""The ASGI app: MONAI Label's REST shapes on routes of our own.

MONAI Label 0.8.5 declares every endpoint ``async`` around blocking work, so that one inference stops all other requests
(6.5 s for ``/info/`` against 5 ms). Its routes are therefore not mounted; these speak the same shapes, and hand
blocking work to the threads of ``medai.server.lanes``, whose docstring is the concurrency design.

Not served, on purpose: ``/proxy`` (forwards to any path of a remote server with the server's credentials), ``/logs``
(shows the log to anyone who can reach the port), ``/reload`` (drops the app under running requests), ``/infer/wsi*``
(whole-slide pathology), ``PUT`` and ``DELETE /model`` (replaces weights without any comparison), ``/ohif`` and
``/static`` (a viewer of its own; its build is not maintained here).

``uvicorn medai.server.asgi:app`` and ``monailabel start_server --uvicorn_app medai.server.asgi:app`` both work;
``medai serve`` is the usual way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse
from monailabel.config import settings as platform
from monailabel.interfaces.utils.app import app_instance

import medai
from medai.server import (
    memory,
    problems,
    routes_annotations,
    routes_app,
    routes_auth,
    routes_datastore,
    routes_infer,
    routes_models,
    routes_status,
    routes_train,
    sessions,
)
from medai.server.app import MedaiApp
from medai.server.audit import Audit
from medai.server.case_jobs import CaseJobs
from medai.server.compat import configure_platform
from medai.server.handed_out import HandedOut
from medai.server.hidden_paths import HiddenPaths, hidden_folders
from medai.server.lanes import Lane, Lanes
from medai.server.limits import LARGEST_PLAIN_BYTES, UploadSlots
from medai.server.logins import build_logins
from medai.server.origins import AllowedNames, OriginCheck
from medai.server.replies import PlainJSONResponse
from medai.server.request_line import RequestLineCheck
from medai.server.settings import ServerSettings
from medai.server.slow_requests import SlowRequests
from medai.server.temporary import TemporaryFolder

logger = logging.getLogger(__name__)

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Web pages that may call the server from a browser, unless MONAI_LABEL_CORS_ORIGINS names others."""


SESSION_CLEANING_S = 300.0
MOST_FILES, MOST_FIELDS = 4, 32
"""Of a form; a route that takes more files says so (``form_limits``)."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    instance: MedaiApp = await loop.run_in_executor(None, app_instance)
    instance.server_mode(True)
    temporary = await loop.run_in_executor(None, TemporaryFolder, instance.state_folder / "tmp")
    app.state.temporary, app.state.hidden = temporary, _hidden(instance, temporary)
    lanes = Lanes(click_workers=instance.options.click_workers, scan_workers=instance.options.scan_workers)
    app.state.medai, app.state.lanes, app.state.logins = instance, lanes, build_logins(instance.options)
    app.state.handed_out = HandedOut()
    app.state.batches = CaseJobs("batch inference", lanes)
    app.state.scoring = scoring = instance.pool_scoring(lanes)
    threading.Thread(target=_warm_up, args=(instance,), name="medai-warm-up", daemon=True).start()
    await loop.run_in_executor(None, instance.train_policy.begin)
    if instance.options.score_in_background:
        scoring.begin()
    cleaning = asyncio.create_task(_clean_sessions(instance, lanes))
    giving_back = asyncio.create_task(_give_memory_back(lanes))
    logger.info("Serving %s", instance.study.folder)
    yield
    cleaning.cancel()
    giving_back.cancel()
    app.state.batches.close()
    scoring.close()
    lanes.close()
    await loop.run_in_executor(None, instance.close)
    await loop.run_in_executor(None, temporary.close)


def stop_long_work(app: FastAPI) -> None:
    """Begin to end trainings, batches and scoring, at once: what goes on in requests may take its time meanwhile."""
    instance: MedaiApp | None = getattr(app.state, "medai", None)
    if instance is None:
        return
    app.state.batches.close()
    app.state.scoring.close()
    threading.Thread(target=instance.trainings.close, name="medai-end-trainings", daemon=True).start()


def _warm_up(instance: MedaiApp) -> None:
    try:
        instance.warm_up()
    except Exception:
        logger.exception("Warming up failed; requests will say why")


async def _clean_sessions(instance: MedaiApp, lanes: Lanes) -> None:
    while instance.sessions() is not None:
        try:
            await lanes.run(Lane.QUICK, sessions.remove_expired, instance)
        except Exception:
            logger.exception("Old sessions could not be removed")
        await asyncio.sleep(SESSION_CLEANING_S)


async def _give_memory_back(lanes: Lanes) -> None:
    while True:
        await asyncio.sleep(memory.GIVE_BACK_EVERY_S)
        with contextlib.suppress(HTTPException):  # a lane that is full, or closed: another time
            await lanes.run(Lane.QUICK, memory.give_back)


def create_app() -> FastAPI:
    """Build the ASGI app for the study that MONAI Label's settings name."""
    configure_platform()
    app = FastAPI(
        title="medai",
        description="Lung-nodule annotation server with MONAI Label's REST interface.",
        version=medai.__version__,
        default_response_class=PlainJSONResponse,
        lifespan=_lifespan,
        docs_url="/docs",
        redoc_url=None,
        form_limits={"max_files": MOST_FILES, "max_fields": MOST_FIELDS, "max_part_size": LARGEST_PLAIN_BYTES},
    )
    options = ServerSettings.from_conf(platform.MONAI_LABEL_APP_CONF)
    app.state.uploads = UploadSlots(count=options.max_uploads, largest_bytes=options.max_upload_mb << 20)
    app.state.hidden = []
    _add_checks(app, options)
    problems.install(app)
    prefix = platform.MONAI_LABEL_API_STR
    parts = (
        routes_app,
        routes_auth,
        routes_infer,
        routes_train,
        routes_datastore,
        routes_models,
        routes_annotations,
        routes_status,
        sessions,
    )
    for part in parts:
        app.include_router(part.router, prefix=prefix)

    @app.get("/", include_in_schema=False)
    async def _home() -> RedirectResponse:
        return RedirectResponse(f"{prefix}/docs", status_code=HTTPStatus.TEMPORARY_REDIRECT)

    return app


def _add_checks(app: FastAPI, options: ServerSettings) -> None:
    """Add what every request passes before a route sees it; the last one added is the first one passed."""
    named = [origin for origin in options.allowed_origins.split(",") if origin.strip()]
    origins = [str(origin).strip().rstrip("/") for origin in (*platform.MONAI_LABEL_CORS_ORIGINS, *named)]
    app.add_middleware(SlowRequests, timeout_s=lambda: options.request_timeout_s)
    app.add_middleware(RequestLineCheck)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_origin_regex=None if origins else LOOPBACK_ORIGINS,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    app.add_middleware(OriginCheck, allowed=AllowedNames.of(options.allowed_hosts, origins))
    app.add_middleware(HiddenPaths, hidden=lambda: app.state.hidden)
    # Around all of them, so that what they refuse is written down too.
    app.add_middleware(Audit, served=lambda: getattr(app.state, "medai", None))


def _hidden(instance: MedaiApp, temporary: TemporaryFolder) -> list[tuple[bytes, bytes]]:
    if instance.options.share_paths:
        return []
    folders = [(temporary.path, "TEMPORARY"), (instance.study.folder, "STUDY")]
    if instance.sessions() is not None:
        folders.append((Path(instance.sessions().store_path), "SESSIONS"))
    return hidden_folders([*folders, (Path(medai.__file__).parent, "MEDAI"), (Path.home(), "HOME")])


app = create_app()
