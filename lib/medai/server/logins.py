"""Who asks: a token of the hospital's realm, checked before anything of a request is read.

``Logins.user`` is the one check, used by whatever needs to know (``access``). A token is taken where its signature is
of one of the realm's public keys, its issuer is the realm, it was issued for this application, and its time is now,
give or take ``LEEWAY_S`` for clocks that differ. A token that is good by a known key costs a third of a millisecond
and no request.

Authentication is off unless MONAI_LABEL_AUTH_ENABLE says otherwise; then everyone is MONAI Label's default user.
(MONAI Label 0.8.5 itself calls ``jwt.decode`` without ``algorithms``, which PyJWT 2 refuses, checks neither issuer nor
audience, and keeps one key for good.)

Threads: the event loop, and any other; see ``issuer``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from fastapi import HTTPException
from monailabel.config import settings as platform
from monailabel.endpoints.user import auth
from monailabel.endpoints.user.auth import User

from medai.errors import InputError
from medai.server.issuer import Issuer, IssuerOptions, LoginRefusedError, RealmAwayError
from medai.server.settings import ServerSettings

logger = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("ES256", "ES384", "ES512"),
    *("PS256", "PS384", "PS512"),
    "EdDSA",
)
"""Signatures with a public key only: with HS256 among them the public key would pass for a shared secret."""

LEEWAY_S = 30.0
"""How far the realm's clock and ours may be apart."""

LONGEST_TOKEN = 32 << 10
LONGEST_USER_NAME = 120
_NOT_ACCESS = ("id", "refresh", "offline", "logout")
"""What Keycloak writes into ``typ`` of tokens that are for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """Which tokens are for this application.

    Attributes:
        client_id: of this application at the realm: ``azp``, or ``aud`` where a realm sends no ``azp``.
        audience: what ``aud`` must hold instead, for realms that give an API a name of its own; then any client's.
        scope: what is asked for when a password is exchanged.
        secret: of the client, where the realm wants one.
    """

    client_id: str
    audience: str = ""
    scope: str = ""
    secret: str = ""


class Logins:
    """Checks tokens and fetches them."""

    def __init__(self, issuer: Issuer, options: LoginOptions) -> None:
        self._issuer = issuer
        self._options = options

    async def user(self, authorization: str | None) -> User:
        """The user whom an ``Authorization`` header stands for; MONAI Label's default user where logins are off.

        Raises:
            HTTPException: 401 for a token that is missing or not valid, 503 where the realm would have to be asked and
                does not answer.
        """
        if not platform.MONAI_LABEL_AUTH_ENABLE:
            return auth.DEFAULT_USER
        token = _bearer(authorization)
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._issuer.known_key(key_id)
            if key is None:
                running = self._issuer.refresh()
                if running is not None:
                    await asyncio.wrap_future(running)
                key = self._issuer.known_key(key_id)
            if key is None:
                self._issuer.check_reached()
                raise jwt.InvalidTokenError("it is signed with a key that the login server does not list")
            return user_of_claims(self._claims(token, key))
        except RealmAwayError as error:
            raise away(error) from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            logger.info("A token was refused: %s", error)
            raise unauthorised(f"Could not validate credentials: {error}") from error

    def fetch_token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Exchange what a client sent for a token; blocking.

        Raises:
            HTTPException: 401 where the realm refuses, 503 where it does not answer.
        """
        asked = {"client_id": self._options.client_id, **form}
        asked |= {"client_secret": self._options.secret} if self._options.secret else {}
        asked |= {"scope": self._options.scope} if self._options.scope else {}
        try:
            return self._issuer.exchange(asked)
        except LoginRefusedError as error:
            raise unauthorised(str(error)) from error
        except RealmAwayError as error:
            raise away(error) from error

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            issuer=self._issuer.name,
            leeway=LEEWAY_S,
            options={"verify_aud": False, "require": ["exp", "iss"]},
        )
        if str(claims.get("typ") or "").lower() in _NOT_ACCESS:
            raise jwt.InvalidTokenError("it is no access token")
        self._check_audience(claims)
        return claims

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        """Refuse a token that was issued for another application.

        Keycloak names the application in ``azp``, and in ``aud`` what it may call ("account", by default); others name
        it in ``aud`` alone.
        """
        named = claims.get("aud")
        audience = {named} if isinstance(named, str) else {each for each in named or () if isinstance(each, str)}
        if self._options.audience:
            if self._options.audience not in audience:
                raise jwt.InvalidAudienceError("it is for another audience")
            return
        party = claims.get("azp") or claims.get("client_id") or claims.get("cid") or claims.get("appid")
        if party is None and self._options.client_id in audience:
            return
        if party != self._options.client_id:
            raise jwt.InvalidAudienceError("it was issued for another application")


def build_logins(settings: ServerSettings) -> Logins:
    """Logins by MONAI Label's settings (``MONAI_LABEL_AUTH_…``) and ours (``auth_…``).

    Raises:
        InputError: the file of the client's secret cannot be read.
    """
    realm = str(platform.MONAI_LABEL_AUTH_REALM_URI)
    secret = _secret(settings.auth_secret_file) if platform.MONAI_LABEL_AUTH_ENABLE else ""
    if platform.MONAI_LABEL_AUTH_ENABLE and realm.startswith("http://") and not _is_local(realm):
        logger.warning("Passwords and keys travel unencrypted to the login server %s: use https", realm)
    issuer = Issuer(
        IssuerOptions(url=realm, issuer=settings.auth_issuer, timeout_s=float(platform.MONAI_LABEL_AUTH_TIMEOUT))
    )
    if platform.MONAI_LABEL_AUTH_ENABLE:
        # So that the first annotator does not wait, and a wrong address is in the log at once.
        issuer.refresh()
    return Logins(
        issuer,
        LoginOptions(
            client_id=str(platform.MONAI_LABEL_AUTH_CLIENT_ID),
            audience=settings.auth_audience,
            scope=settings.auth_scope,
            secret=secret,
        ),
    )


def user_of_claims(claims: Mapping[str, Any]) -> User:
    """The user whom a token's content names, by MONAI Label's settings of where each thing stands.

    Raises:
        jwt.InvalidTokenError: it names none, or by no usable name.
    """
    username = _claim(claims, platform.MONAI_LABEL_AUTH_TOKEN_USERNAME)
    if not isinstance(username, str) or not username.strip():
        raise jwt.InvalidTokenError(f"it has no '{platform.MONAI_LABEL_AUTH_TOKEN_USERNAME}' that names the user")
    if len(username) > LONGEST_USER_NAME or not username.isprintable():
        raise jwt.InvalidTokenError(
            f"its user name has {len(username)} characters; {LONGEST_USER_NAME} printable ones are taken"
        )
    email, name = (
        _claim(claims, path) for path in (platform.MONAI_LABEL_AUTH_TOKEN_EMAIL, platform.MONAI_LABEL_AUTH_TOKEN_NAME)
    )
    return User(
        username=username.strip(),
        email=email if isinstance(email, str) else None,
        name=name if isinstance(name, str) else None,
        roles=_roles(_claim(claims, platform.MONAI_LABEL_AUTH_TOKEN_ROLES)),
    )


def unauthorised(detail: str) -> HTTPException:
    """401, as MONAI Label answers it."""
    return HTTPException(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def away(error: RealmAwayError) -> HTTPException:
    """503, with when to ask again."""
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": str(math.ceil(error.retry_after_s))}
    )


def _secret(file_name: str) -> str:
    if not file_name:
        return ""
    try:
        return Path(file_name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--conf auth_secret_file={file_name} cannot be read: {error}.") from error


def _is_local(address: str) -> bool:
    return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise unauthorised("Not authenticated: this server asks for a login (POST /auth/token, or 3D Slicer's dialog).")
    if len(token) > LONGEST_TOKEN:
        raise unauthorised(f"Could not validate credentials: a token of {len(token)} characters is not taken.")
    return token


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at a path: a name as it is, else parts separated by ``#`` (or by dots where there is no ``#``)."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("#" if "#" in path else "."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _roles(claim: Any) -> list[str]:
    """Names of roles: a list, or one text with spaces between them."""
    if isinstance(claim, str):
        return claim.split()
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []
