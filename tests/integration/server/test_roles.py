"""Which role each route asks for, as one table, and that every route is in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from tests.integration.server.conftest import Served
from tests.support.oidc_issuer import OidcIssuer

from medai.server.access import CheckedRoute, Viewer, needs_of
from medai.server.roles import Role, highest_role, may

OPEN, LOGIN = "open", "login"
VIEWER, ANNOTATOR, REVIEWER, ADMIN = Role.VIEWER, Role.ANNOTATOR, Role.REVIEWER, Role.ADMIN

TABLE: dict[str, str | Role] = {
    "GET /": OPEN,
    "GET /auth/": OPEN,
    "POST /auth/token": OPEN,
    "GET /auth/token/valid": LOGIN,
    "GET /info/": VIEWER,
    "POST /activelearning/{strategy}": ANNOTATOR,
    "GET /logs/": VIEWER,
    "GET /logs/gpu": VIEWER,
    "GET /model/info/{model}": ADMIN,
    "GET /model/{model}": ADMIN,
    "POST /infer/{model}": VIEWER,
    "GET /batch/infer": VIEWER,
    "POST /batch/infer/{model}": ADMIN,
    "DELETE /batch/infer": ADMIN,
    "GET /train/": VIEWER,
    "POST /train/": ADMIN,
    "POST /train/{model}": ADMIN,
    "DELETE /train/": ADMIN,
    "GET /scoring/": VIEWER,
    "POST /scoring/": ANNOTATOR,
    "POST /scoring/{method}": ANNOTATOR,
    "DELETE /scoring/": ANNOTATOR,
    "GET /datastore/": VIEWER,
    "PUT /datastore/": ANNOTATOR,
    "DELETE /datastore/": ADMIN,
    "PUT /datastore/image": ANNOTATOR,
    "DELETE /datastore/image": ADMIN,
    "HEAD /datastore/image": VIEWER,
    "GET /datastore/image": VIEWER,
    "GET /datastore/image/info": VIEWER,
    "PUT /datastore/image/info": ANNOTATOR,
    "PUT /datastore/label": ANNOTATOR,
    "DELETE /datastore/label": ADMIN,
    "HEAD /datastore/label": VIEWER,
    "GET /datastore/label": VIEWER,
    "GET /datastore/label/info": VIEWER,
    "PUT /datastore/label/info": ANNOTATOR,
    "PUT /datastore/updatelabelinfo": ANNOTATOR,
    "GET /datastore/dataset": ANNOTATOR,
    "GET /medai/models": VIEWER,
    "GET /medai/models/{task}/card": VIEWER,
    "GET /medai/models/{task}/history": VIEWER,
    "GET /medai/models/{task}/pictures/{name}": VIEWER,
    "GET /medai/annotations": ANNOTATOR,
    "GET /medai/status": VIEWER,
    "PUT /session/": ANNOTATOR,
    "GET /session/{session_id}": VIEWER,
    "DELETE /session/{session_id}": ANNOTATOR,
}
"""As MONAI Label's own roles for the same routes, but that whatever writes asks for an annotator: a session keeps a
scan, a next sample a reservation. A verdict in ``updatelabelinfo`` asks for a reviewer besides. ``/logs/`` answers with
words alone, never with the log."""

PLATFORMS_PAGES = {"/openapi.json", "/docs", "/docs/oauth2-redirect"}
PEOPLE = {None: None, "guest": None, "vera": VIEWER, "anna": ANNOTATOR, "rita": REVIEWER, "adam": ADMIN}


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, APIRoute]]:
    """Every route of the app with its method, those of included routers too."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if isinstance(router, APIRouter):
            yield from routes_of(router.routes)
        elif isinstance(route, APIRoute):
            for method in sorted(route.methods):
                yield f"{method} {route.path}", route
        else:
            assert getattr(route, "path", None) in PLATFORMS_PAGES, f"{route} is no route that anybody checks"


def test_every_route_is_in_the_table_with_the_role_it_asks_for(hospital: Served):
    found: dict[str, str | Role] = {}
    for name, route in routes_of(hospital.client.app.routes):  # type: ignore[attr-defined]
        needs = needs_of(route)
        found[name] = OPEN if needs is None else LOGIN if needs.role is None else needs.role
    assert found == TABLE


def test_a_route_without_a_role_does_not_build():
    router = APIRouter(route_class=CheckedRoute)

    async def forgotten() -> None:
        pass

    async def checked(user: Viewer) -> None:
        pass

    router.get("/checked")(checked)
    with pytest.raises(TypeError, match="/forgotten asks for no role"):
        router.get("/forgotten")(forgotten)


@pytest.mark.parametrize("name", [name for name, needs in TABLE.items() if isinstance(needs, Role)])
def test_who_has_too_little_is_refused_before_anything_happens(hospital: Served, realm: OidcIssuer, name: str):
    method, path = name.split(" ")
    wanted = TABLE[name]
    assert isinstance(wanted, Role)
    url = path.replace("{", "").replace("}", "")
    for person, role in PEOPLE.items():
        if role is not None and role >= wanted:
            continue
        headers = realm.header(person) if person else {}
        reply = hospital.client.request(method, url, headers=headers)
        assert reply.status_code == (403 if person else 401), (name, person)
        if person and method != "HEAD":
            assert wanted.realm_name in reply.json()["detail"]


@pytest.mark.parametrize("person", ["vera", "anna", "rita", "adam"])
def test_a_higher_role_may_what_a_lower_one_may(hospital: Served, realm: OidcIssuer, person: str):
    role = PEOPLE[person]
    assert isinstance(role, Role)
    allowed = [
        ("GET /info/", VIEWER),
        ("GET /medai/status", VIEWER),
        ("POST /activelearning/nothing", ANNOTATOR),
        ("GET /medai/annotations", ANNOTATOR),
        ("POST /scoring/nothing", ANNOTATOR),
        ("PUT /datastore/label?image=nothing", ANNOTATOR),
        ("DELETE /datastore/label?id=nothing&tag=final", ADMIN),
        ("POST /train/nothing", ADMIN),
    ]
    for name, wanted in allowed:
        method, url = name.split(" ")
        reply = hospital.client.request(method, url, headers=realm.header(person))
        assert (reply.status_code not in (401, 403)) == (role >= wanted), (name, reply.status_code)


def test_the_names_of_roles_are_the_realms(monkeypatch: pytest.MonkeyPatch):
    from monailabel.config import settings

    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ROLE_REVIEWER", "senior radiologist")
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ROLE_USER", "staff")
    assert highest_role(["staff", "senior radiologist", "something"]) is REVIEWER
    assert highest_role(["monailabel-reviewer"]) is None
    assert may(["senior radiologist"], ANNOTATOR)
    assert not may(["staff"], ANNOTATOR)
    assert not may([], VIEWER)
