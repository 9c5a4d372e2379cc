"""What every route asks for: the app, the lanes, and a user with the right role."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Query, Request
from monailabel.config import settings as platform
from monailabel.endpoints.user.auth import RBAC, User

from medai.server.app import MedaiApp
from medai.server.lanes import Lanes

_OWN_HOSTS = ("", "127.0.0.1", "::1", "testclient")
"""Addresses of this machine; the last is what Starlette's test client calls itself."""


def _app(request: Request) -> MedaiApp:
    return cast(MedaiApp, request.app.state.medai)


def _lanes(request: Request) -> Lanes:
    return cast(Lanes, request.app.state.lanes)


def _host(request: Request) -> str:
    return request.client.host if request.client else ""


def annotator_of(client_id: str, host: str) -> str:
    """Who asks, as reservations know it: the name the client gives, and where from.

    The Slicer module calls everyone "user-xyz" who has not chosen a name, so two machines are two annotators whatever
    they call themselves. On the server's own machine the name alone counts.
    """
    return client_id if host in _OWN_HOSTS else f"{client_id}@{host}"


def annotator_name(user: User, client_id: str, host: str) -> str:
    """Who it is, for the history: the authenticated user, else as the client says; "" where it does not."""
    if platform.MONAI_LABEL_AUTH_ENABLE:
        return str(user.username)
    return annotator_of(client_id, host) if client_id else ""


App = Annotated[MedaiApp, Depends(_app)]
Host = Annotated[str, Depends(_host)]
Threads = Annotated[Lanes, Depends(_lanes)]
Viewer = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_USER))]
Annotator = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Admin = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_ADMIN))]

# Parameters of the three routes that show task records.
Every = Annotated[bool, Query(alias="all")]
Running = Annotated[bool, Query(alias="check_if_running")]
