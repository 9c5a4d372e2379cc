"""Who asks: MONAI Label's tokens of a Keycloak realm, with the one argument that makes them valid again.

Authentication is off unless MONAI_LABEL_AUTH_ENABLE says otherwise; then every route asks for a role. MONAI Label 0.8.5
calls ``jwt.decode`` without ``algorithms``, which PyJWT 2 refuses, so that every token is answered with 401.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated, Any

import jwt
import requests
from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings as platform
from monailabel.endpoints.user import auth
from monailabel.endpoints.user.auth import User, oauth2_scheme

from medai.server.access import Threads
from medai.server.lanes import Lane
from medai.server.replies import PlainJSONResponse

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/auth", tags=["Auth"])

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256")
"""Signatures with a public key only: with HS256 among them the public key would pass for a shared secret."""

TOKEN_TIMEOUT_S = 30.0


async def _no_token() -> str:
    return ""


def current_user(
    token: Annotated[str, Depends(oauth2_scheme if platform.MONAI_LABEL_AUTH_ENABLE else _no_token)],
) -> User:
    """The user a token stands for; MONAI Label's default user where authentication is off.

    A plain function, so that fetching the realm's key runs in a thread.

    Raises:
        HTTPException: 401 for a token that is not valid.
    """
    if not platform.MONAI_LABEL_AUTH_ENABLE:
        return auth.DEFAULT_USER
    try:
        key = auth.get_public_key(platform.MONAI_LABEL_AUTH_REALM_URI)
        content = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            options={"verify_signature": True, "verify_aud": False, "verify_exp": True, "require": ["exp"]},
        )
        return _user(content)
    except jwt.InvalidTokenError as error:
        logger.info("A token was refused: %s", error)
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED, "Could not validate credentials", {"WWW-Authenticate": "Bearer"}
        ) from error


@router.get("/")
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
async def token(form: Annotated[OAuth2PasswordRequestForm, Depends()], lanes: Threads) -> JSONResponse:
    """Fetch a token from the realm for a name and a password."""
    if not platform.MONAI_LABEL_AUTH_ENABLE:
        return PlainJSONResponse({"access_token": None, "token_type": None})
    return PlainJSONResponse(await lanes.run(Lane.TRANSFER, _fetch_token, form.username, form.password))


@router.get("/token/valid")
async def valid_token(user: Annotated[User, Depends(auth.get_current_user)]) -> JSONResponse:
    """The user of the token; 401 where it is not valid."""
    return PlainJSONResponse(user.model_dump())


def _fetch_token(username: str, password: str) -> Any:
    response = requests.post(
        auth.token_uri(),
        data={
            "client_id": platform.MONAI_LABEL_AUTH_CLIENT_ID,
            "username": username,
            "password": password,
            "grant_type": "password",
        },
        timeout=TOKEN_TIMEOUT_S,
    )
    if not response.ok:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "The realm refused this name and password.")
    return response.json()


def _user(content: dict[str, Any]) -> User:
    roles: Any = content
    for part in platform.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(part) if isinstance(roles, dict) else None
    username = content.get(platform.MONAI_LABEL_AUTH_TOKEN_USERNAME)
    if not isinstance(username, str):
        raise jwt.InvalidTokenError("the token names no user")
    return User(
        username=username,
        email=content.get(platform.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=content.get(platform.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=list(roles or []),
    )
