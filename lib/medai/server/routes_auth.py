"""``/auth/``: where to log in, a token for a name and a password, and whether a token is good.

Fetching a token waits for the hospital's realm, so it has a lane of its own: where the realm is slow, logging in is
slow and nothing else.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings as platform

from medai.server.access import AnyLogin, CheckedRoute, Threads, open_to_all
from medai.server.audit import note
from medai.server.lanes import Lane
from medai.server.logins import LONGEST_USER_NAME, Logins
from medai.server.replies import PlainJSONResponse

router = APIRouter(prefix="/auth", tags=["Auth"], route_class=CheckedRoute)

LONGEST_SECRET = 16 << 10
"""A refresh token is the longest of what is sent."""

_PASSED_ON = ("access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in", "scope")


@router.get("/")
@open_to_all
async def enabled() -> JSONResponse:
    """Whether the client must log in, and where."""
    return PlainJSONResponse(
        {
            "enabled": platform.MONAI_LABEL_AUTH_ENABLE,
            "client_id": platform.MONAI_LABEL_AUTH_CLIENT_ID,
            "realm": platform.MONAI_LABEL_AUTH_REALM_URI,
        }
    )


@router.post("/token")
@open_to_all
async def token(
    request: Request,
    lanes: Threads,
    grant_type: Annotated[str, Form()] = "password",
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    refresh_token: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Fetch a token for a name and a password, or for a refresh token (``grant_type=refresh_token``)."""
    if not platform.MONAI_LABEL_AUTH_ENABLE:
        return PlainJSONResponse({"access_token": None, "token_type": None})
    form = _token_form(grant_type, username, password, refresh_token)
    note(request.scope, user=username)
    logins: Logins = request.app.state.logins
    content = await lanes.run(Lane.LOGIN, logins.fetch_token, form)
    return PlainJSONResponse(
        {"token_type": "Bearer", **{name: content[name] for name in _PASSED_ON if name in content}},
        headers={"Cache-Control": "no-store"},
    )


@router.get("/token/valid")
async def valid_token(user: AnyLogin) -> JSONResponse:
    """The user of the token; 401 where it is not valid."""
    return PlainJSONResponse(user.model_dump())


def _token_form(grant_type: str, username: str, password: str, refresh_token: str) -> dict[str, Any]:
    """What the realm is sent.

    Raises:
        HTTPException: 422 for a part that is missing, too long, or of another grant.
    """
    given = (
        {"username": username, "password": password} if grant_type == "password" else {"refresh_token": refresh_token}
    )
    if grant_type not in ("password", "refresh_token"):
        problem = f"'grant_type' is {ascii(grant_type)[:60]}; it takes 'password' or 'refresh_token'."
    elif missing := [name for name, value in given.items() if not value]:
        problem = f"{' and '.join(missing)} must be given to log in."
    elif len(username) > LONGEST_USER_NAME or not (username.isprintable()):
        problem = f"'username' has {len(username)} characters; {LONGEST_USER_NAME} printable ones are taken."
    elif long := [name for name, value in given.items() if len(value) > LONGEST_SECRET]:
        problem = f"{' and '.join(long)} is longer than the {LONGEST_SECRET} characters taken."
    elif any(not _is_text(value) for value in given.values()):
        problem = "The name or password is no valid text (UTF-8)."
    else:
        return {"grant_type": grant_type, **given}
    raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, problem)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
