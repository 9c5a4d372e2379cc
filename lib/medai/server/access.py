"""What every route asks for: the app, the lanes, and a user with the right role."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Query, Request
from monailabel.config import settings as platform
from monailabel.endpoints.user.auth import RBAC, User

from medai.server.app import MedaiApp
from medai.server.lanes import Lanes


def _app(request: Request) -> MedaiApp:
    return cast(MedaiApp, request.app.state.medai)


def _lanes(request: Request) -> Lanes:
    return cast(Lanes, request.app.state.lanes)


App = Annotated[MedaiApp, Depends(_app)]
Threads = Annotated[Lanes, Depends(_lanes)]
Viewer = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_USER))]
Annotator = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Admin = Annotated[User, Depends(RBAC(platform.MONAI_LABEL_AUTH_ROLE_ADMIN))]

# Parameters of the three routes that show task records.
Every = Annotated[bool, Query(alias="all")]
Running = Annotated[bool, Query(alias="check_if_running")]
