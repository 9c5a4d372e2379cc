"""What every route asks for: the app, the lanes, a login with the right role, and who that is.

Routes are ``CheckedRoute``: whether the login may do this is settled before a byte of the body is read, so that nobody
without one can make the server take in a file. A route without a role does not build, unless it says that it is open.

Without logins MONAI Label's default user, who has every role, stands behind each request, and people are told apart by
the ``client_id`` they send.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import Depends, HTTPException, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer
from monailabel.config import settings as platform
from monailabel.endpoints.user.auth import User

from medai.domain.annotation import ReviewState
from medai.errors import InputError
from medai.server.app import MedaiApp
from medai.server.audit import note
from medai.server.bounded_route import BoundedRoute
from medai.server.handed_out import HandedOut
from medai.server.lanes import Lane, Lanes
from medai.server.logins import Logins
from medai.server.roles import Role, may
from medai.store.clients import ANONYMOUS

LONGEST_CLIENT_ID = 120

_OWN_HOSTS = ("", "127.0.0.1", "::1", "testclient")
"""Addresses of this machine; the last is what Starlette's test client calls itself."""

_USER = "medai.user"
_SCHEME = OAuth2PasswordBearer(tokenUrl="auth/token", auto_error=False)
"""For the API's description: its pages then offer to log in."""


async def authenticate(request: Request) -> User:
    """The user behind a request, checked once however often it is asked for.

    Raises:
        HTTPException: 401 without a valid token, 503 where the realm would have to be asked and does not answer.
    """
    user: User | None = request.scope.get(_USER)
    if user is None:
        logins: Logins = request.app.state.logins
        user = request.scope[_USER] = await logins.user(request.headers.get("authorization"))
        if platform.MONAI_LABEL_AUTH_ENABLE:
            note(request.scope, user=user.username, roles=user.roles)
    return user


class Needs:
    """A login with a role, as a dependency; None: any login."""

    def __init__(self, role: Role | None) -> None:
        self.role = role

    async def __call__(self, request: Request, _: Annotated[str | None, Depends(_SCHEME)] = None) -> User:
        """The user.

        Raises:
            HTTPException: 401 or 503 as ``authenticate``, 403 without the role.
        """
        user = await authenticate(request)
        if self.role is not None:
            check_role(user, self.role)
        return user


class NeedsOrHandedOut(Needs):
    """The same, or the address that a login with the role was just given the ``image`` at (``handed_out``)."""

    async def __call__(self, request: Request, _: Annotated[str | None, Depends(_SCHEME)] = None) -> User:
        """The user; raises as ``Needs``."""
        if platform.MONAI_LABEL_AUTH_ENABLE and "authorization" not in request.headers:
            handed_out: HandedOut = request.app.state.handed_out
            user = handed_out.user_of(request.query_params.get("image", ""), _address(request))
            if user is not None:
                request.scope[_USER] = user
                note(request.scope, user=user.username, roles=user.roles, by="next sample")
        return await super().__call__(request)


def hand_out(request: Request, user: User, case_id: str) -> None:
    """Let 3D Slicer, which sends no login with it, download the scan that a login has just been given."""
    if platform.MONAI_LABEL_AUTH_ENABLE and _app(request).options.slicer_downloads:
        request.app.state.handed_out.give(case_id, _address(request), user)


def check_role(user: User, role: Role) -> None:
    """Refuse a user without a role.

    Raises:
        HTTPException: 403, with the name of the role.
    """
    if platform.MONAI_LABEL_AUTH_ENABLE and not may(user.roles, role):
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f'Role "{role.realm_name}" is required to perform this action; '
            f"'{user.username}' has: {', '.join(user.roles) or 'none'}.",
        )


def needs_of(route: APIRoute) -> Needs | None:
    """What a route asks of the login; None where it asks for none."""
    found = (dependency.call for dependency in route.dependant.dependencies)
    return next((call for call in found if isinstance(call, Needs)), None)


class CheckedRoute(BoundedRoute):
    """A route whose login is checked before its body is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        super().__init__(path, endpoint, **settings)
        if needs_of(self) is None and not getattr(endpoint, "is_open", False):
            raise TypeError(f"{path} asks for no role: give it a Viewer, Annotator, Reviewer or Admin, or open_to_all.")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the check."""
        handler, needs = super().get_route_handler(), needs_of(self)

        async def checked(request: Request) -> Response:
            if needs is not None:
                await needs(request)
            return await handler(request)

        return checked


def open_to_all(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a route that answers without a login."""
    endpoint.is_open = True  # type: ignore[attr-defined]  # read by CheckedRoute
    return endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks.

    Attributes:
        name: for the history: the login, else as the client says and where from; "" where it says nothing.
        client_id: the same for reservations and proposals; never "".
    """

    name: str
    client_id: str


def identify(request: Request, user: User, client_id: Any) -> Identity:
    """Who asks: the login, whatever ``client_id`` the client sends; without logins the client_id and where from.

    Raises:
        InputError: the client_id is no text of a bearable length.
    """
    given = _checked_client_id(client_id)
    if platform.MONAI_LABEL_AUTH_ENABLE:
        return Identity(name=str(user.username), client_id=str(user.username))
    host = _address(request)
    name = annotator_name(user, given, host)
    note(request.scope, user=name)
    _look_at(request, given or ANONYMOUS, "this machine" if host in _OWN_HOSTS else host)
    return Identity(name=name, client_id=annotator_of(given or ANONYMOUS, host))


def signed(content: dict[str, Any], user: User, identity: Identity | None = None) -> dict[str, Any]:
    """What a client says about a scan or label, with who says it: the login beats the names in it."""
    if not platform.MONAI_LABEL_AUTH_ENABLE:
        return {**content, "user": user.username}
    named = {"user": user.username} | ({"client_id": user.username} if identity or "client_id" in content else {})
    meta = content.get("segmentationMeta")
    if isinstance(meta, dict) and "approvedBy" in meta:
        named["segmentationMeta"] = {**meta, "approvedBy": user.username}
    return {**content, **named}


def without_own_approval(content: dict[str, Any]) -> dict[str, Any]:
    """What a client says about the label it submits, less that it is approved: nobody approves their own.

    3D Slicer's reviewer module sends the status of the version before along with an edited one. Without logins that
    cannot be held, and what was sent stays.
    """
    meta = content.get("segmentationMeta")
    if not platform.MONAI_LABEL_AUTH_ENABLE or not isinstance(meta, dict):
        return content
    if ReviewState.of(meta.get("status")) is not ReviewState.APPROVED:
        return content
    return {**content, "segmentationMeta": {**meta, "status": "segmented", "approvedBy": ""}}


def annotator_of(client_id: str, host: str) -> str:
    """Who asks, as reservations know it where there are no logins: the name the client gives, and where from.

    The Slicer module calls everyone "user-xyz" who has not chosen a name, so two machines are two annotators whatever
    they call themselves. On the server's own machine the name alone counts.
    """
    return client_id if host in _OWN_HOSTS else f"{client_id}@{host}"


def annotator_name(user: User, client_id: str, host: str) -> str:
    """Who it is, for the history: the authenticated user, else as the client says; "" where it does not."""
    if platform.MONAI_LABEL_AUTH_ENABLE:
        return str(user.username)
    return annotator_of(client_id, host) if client_id else ""


def _checked_client_id(client_id: Any) -> str:
    if client_id is None:
        return ""
    if not isinstance(client_id, str | int):
        raise InputError(f"'client_id' is {str(client_id)[:60]!r}; it takes the annotator's name as text.")
    text = str(client_id).strip()
    if len(text) > LONGEST_CLIENT_ID:
        raise InputError(
            f"'client_id' has {len(text)} characters; {LONGEST_CLIENT_ID} are taken. In 3D Slicer it is set in "
            "Edit > Application Settings > MONAI Label > Client/User-ID."
        )
    if text and not text.isprintable():
        raise InputError(f"'client_id' is {text!a}; it takes printable characters.")
    return text


def _look_at(request: Request, client_id: str, address: str) -> None:
    app = _app(request)
    if app.clients.seen(client_id, address):
        # Kept for medai status by a thread: the event loop writes nothing.
        try:
            _lanes(request).submit(Lane.QUICK, app.clients.save)
        except HTTPException:
            # A crowd: who is among them matters less than the answer.
            app.clients.postpone_save()


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _app(request: Request) -> MedaiApp:
    return cast(MedaiApp, request.app.state.medai)


def _lanes(request: Request) -> Lanes:
    return cast(Lanes, request.app.state.lanes)


App = Annotated[MedaiApp, Depends(_app)]
Threads = Annotated[Lanes, Depends(_lanes)]
AnyLogin = Annotated[User, Depends(Needs(None))]
Viewer = Annotated[User, Depends(Needs(Role.VIEWER))]
HandedOutViewer = Annotated[User, Depends(NeedsOrHandedOut(Role.VIEWER))]
Annotator = Annotated[User, Depends(Needs(Role.ANNOTATOR))]
Reviewer = Annotated[User, Depends(Needs(Role.REVIEWER))]
Admin = Annotated[User, Depends(Needs(Role.ADMIN))]

# Parameters of the three routes that show task records.
Every = Annotated[bool, Query(alias="all")]
Running = Annotated[bool, Query(alias="check_if_running")]
