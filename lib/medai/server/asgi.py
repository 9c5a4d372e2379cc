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
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse
from monailabel.config import settings as platform
from monailabel.interfaces.utils.app import app_instance

import medai
from medai.server import problems, routes_app
from medai.server.compat import configure_platform
from medai.server.lanes import Lanes
from medai.server.replies import PlainJSONResponse

logger = logging.getLogger(__name__)

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Web pages that may call the server from a browser, unless MONAI_LABEL_CORS_ORIGINS names others."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    instance = await loop.run_in_executor(None, app_instance)
    instance.server_mode(True)
    app.state.medai = instance
    app.state.lanes = Lanes(click_workers=instance.options.click_workers, scan_workers=instance.options.scan_workers)
    logger.info("Serving %s", instance.study.folder)
    yield
    app.state.lanes.close()


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
    )
    origins = [str(origin).rstrip("/") for origin in platform.MONAI_LABEL_CORS_ORIGINS]
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_origin_regex=None if origins else LOOPBACK_ORIGINS,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    problems.install(app)
    prefix = platform.MONAI_LABEL_API_STR
    app.include_router(routes_app.router, prefix=prefix)

    @app.get("/", include_in_schema=False)
    async def _home() -> RedirectResponse:
        return RedirectResponse(f"{prefix}/docs", status_code=HTTPStatus.TEMPORARY_REDIRECT)

    return app


app = create_app()
