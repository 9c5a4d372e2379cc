"""``/info/``: what the server offers and how far it is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from medai.server.access import App, Threads, Viewer
from medai.server.lanes import Lane

router = APIRouter(tags=["App"])


@router.get("/info/")
async def info(app: App, lanes: Threads, user: Viewer) -> Any:
    """Models, trainers, strategies, progress of the study and of a training."""
    return await lanes.run(Lane.QUICK, app.info)
