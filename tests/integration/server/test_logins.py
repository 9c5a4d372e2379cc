"""Logins by a hospital's realm: which tokens are taken, what happens while the realm changes keys, is slow or away."""

from __future__ import annotations

import errno
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.integration.server.conftest import Served
from tests.support.oidc_issuer import CLIENT_ID, OidcIssuer

from medai.server import issuer as issuer_module
from medai.server.handed_out import HANDED_OUT_S, HandedOut
from medai.server.issuer import Issuer, IssuerOptions
from medai.server.logins import LONGEST_USER_NAME
from medai.store.audit_log import read_audit

OK, UNAUTHORISED, FORBIDDEN, AWAY = 200, 401, 403, 503


@pytest.fixture(autouse=True)
def no_pause_between_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_module, "REFETCH_S", 0.0)


@pytest.fixture(autouse=True)
def nothing_handed_out(hospital: Served) -> None:
    hospital.client.app.state.handed_out = HandedOut()  # type: ignore[attr-defined]


def valid(hospital: Served, token: str) -> Any:
    return hospital.client.get("/auth/token/valid", headers={"Authorization": f"Bearer {token}"})


def test_a_good_token_names_its_user_and_roles(hospital: Served, realm: OidcIssuer):
    reply = valid(hospital, realm.token("ben", email="ben@hospital.example"))
    assert reply.status_code == OK
    assert reply.json() == {
        "username": "ben",
        "email": "ben@hospital.example",
        "name": None,
        "roles": ["monailabel-annotator", "offline_access"],
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"iss": "http://elsewhere/realms/hospital"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"azp": "another-app", "aud": ["account", CLIENT_ID]}, "another application"),
        ({"azp": None, "aud": "another-app"}, "another application"),
        ({"azp": None, "aud": None}, "another application"),
        ({"exp": 1_700_000_000}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"iat": int(time.time()) + 3600}, "not yet valid"),
        ({"typ": "ID"}, "no access token"),
        ({"preferred_username": None}, "names the user"),
        ({"preferred_username": "x" * (LONGEST_USER_NAME + 1)}, "121 characters"),
        ({"preferred_username": "anna\nadmin"}, "printable"),
    ],
)
def test_a_token_that_is_not_for_us_or_not_now_is_refused_in_words(
    hospital: Served, realm: OidcIssuer, changed: dict[str, Any], words: str
):
    reply = valid(hospital, realm.token("anna", **changed))
    assert reply.status_code == UNAUTHORISED
    assert words in reply.json()["detail"]
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "changed",
    [
        {"azp": None, "aud": ["other", CLIENT_ID]},
        {"exp": -10},
        {"iat": 10, "nbf": 10},
    ],
    ids=["audience alone", "just expired", "the realm's clock is ahead"],
)
def test_other_realms_ways_and_small_differences_of_clocks_are_taken(
    hospital: Served, realm: OidcIssuer, changed: dict[str, Any]
):
    # Seconds from now, whenever that is: tests are collected minutes before they run.
    now = int(time.time())
    claims = {name: now + value if isinstance(value, int) else value for name, value in changed.items()}
    assert valid(hospital, realm.token("anna", **claims)).status_code == OK


def test_no_other_way_of_signing_is_taken(hospital: Served, realm: OidcIssuer):
    from cryptography.hazmat.primitives.asymmetric import rsa

    claims, key_id = realm.claims("anna"), {"kid": realm.key_id}
    public = realm.key.public_key().public_numbers().n.to_bytes(256, "big")
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = [
        jwt.encode(claims, None, algorithm="none", headers=key_id),
        jwt.encode(claims, public, algorithm="HS256", headers=key_id),
        jwt.encode(claims, "c2VjcmV0" * 5, algorithm="HS256", headers={"kid": "shared"}),
        jwt.encode(claims, foreign, algorithm="RS256", headers=key_id),
        realm.token("anna")[:-6] + "AAAAAA",
        "nonsense",
        "a.b.c",
        "x" * 40_000,
        "",
    ]
    assert [valid(hospital, token).status_code for token in bad] == [UNAUTHORISED] * len(bad)


def test_new_keys_are_fetched_and_the_old_one_is_forgotten(hospital: Served, realm: OidcIssuer):
    old = realm.token("anna")
    assert valid(hospital, old).status_code == OK
    realm.rotate()
    assert valid(hospital, realm.token("anna")).status_code == OK
    assert valid(hospital, old).status_code == UNAUTHORISED


def test_key_ids_that_nobody_knows_do_not_flood_the_realm(
    hospital: Served, realm: OidcIssuer, monkeypatch: pytest.MonkeyPatch
):
    assert valid(hospital, realm.token("anna")).status_code == OK
    monkeypatch.setattr(issuer_module, "REFETCH_S", 60.0)
    before = len(realm.requests)
    replies = [valid(hospital, realm.sign(realm.claims("anna"), kid=f"made-up-{n}")) for n in range(20)]
    assert {reply.status_code for reply in replies} == {UNAUTHORISED}
    assert len(realm.requests) - before <= 2


def test_while_the_realm_is_away_known_keys_work_and_the_rest_is_told_when_to_ask_again(
    hospital: Served, realm: OidcIssuer
):
    token = realm.token("anna")
    assert valid(hospital, token).status_code == OK
    realm.stop()
    try:
        assert valid(hospital, token).status_code == OK
        login = hospital.client.post("/auth/token", data={"username": "anna", "password": "pw-anna"})
        unknown = valid(hospital, realm.sign(realm.claims("anna"), kid="new"))
    finally:
        realm.start()
    for reply in (login, unknown):
        assert reply.status_code == AWAY
        assert int(reply.headers["retry-after"]) >= 0
        assert "reached" in reply.json()["detail"]
    assert hospital.client.post("/auth/token", data={"username": "anna", "password": "pw-anna"}).status_code == OK


def test_a_realm_away_at_the_start_is_found_later(realm: OidcIssuer):
    realm.stop()
    try:
        issuer = Issuer(IssuerOptions(url=realm.url, timeout_s=1))
        first = issuer.refresh()
        assert first is not None
        first.result(5)
        with pytest.raises(issuer_module.RealmAwayError, match="cannot be reached"):
            issuer.check_reached()
        assert issuer.known_key(realm.key_id) is None
    finally:
        realm.start()
    again = issuer.refresh()
    assert again is not None
    again.result(5)
    issuer.check_reached()
    assert issuer.known_key(realm.key_id) is not None


def test_a_realm_of_another_name_is_refused_with_the_setting_that_would_take_it(realm: OidcIssuer):
    realm.issuer_name = "https://sso.hospital.example/realms/hospital"
    try:
        for name, words in (("", "--conf auth_issuer=https://sso.hospital.example"), (realm.issuer_name, "")):
            issuer = Issuer(IssuerOptions(url=realm.url, issuer=name))
            fetch = issuer.refresh()
            assert fetch is not None
            fetch.result(5)
            if words:
                with pytest.raises(issuer_module.RealmAwayError, match=words):
                    issuer.check_reached()
            else:
                issuer.check_reached()
                assert issuer.name == realm.issuer_name
    finally:
        realm.issuer_name = ""


def test_a_login_passes_the_refresh_token_on_and_takes_it_again(hospital: Served):
    reply = hospital.client.post(
        "/auth/token", data={"username": "rita", "password": "pw-rita", "grant_type": "password"}
    )
    assert reply.status_code == OK
    assert reply.headers["cache-control"] == "no-store"
    content = reply.json()
    assert content["token_type"] == "Bearer"
    assert content["refresh_token"] == "refresh-rita"
    assert "id_token" not in content
    assert valid(hospital, content["access_token"]).json()["username"] == "rita"
    again = hospital.client.post(
        "/auth/token", data={"grant_type": "refresh_token", "refresh_token": content["refresh_token"]}
    )
    assert valid(hospital, again.json()["access_token"]).json()["username"] == "rita"


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"username": "rita", "password": "wrong"}, UNAUTHORISED),
        ({"username": "nobody", "password": "x"}, UNAUTHORISED),
        ({"username": "rita"}, 422),
        ({"username": "r" * 200, "password": "x"}, 422),
        ({"username": "rita", "password": "x" * 20_000}, 422),
        ({"username": "rita", "password": "x", "grant_type": "client_credentials"}, 422),
    ],
)
def test_a_login_that_cannot_be_is_refused(hospital: Served, form: dict[str, str], status: int):
    assert hospital.client.post("/auth/token", data=form).status_code == status


def test_a_slow_realm_holds_up_nobody_but_who_logs_in(hospital: Served, realm: OidcIssuer):
    headers = realm.header("anna")
    assert hospital.client.get("/info/", headers=headers).status_code == OK
    realm.delay_s = 1.5
    try:
        with ThreadPoolExecutor(8) as pool:
            logins = [
                pool.submit(hospital.client.post, "/auth/token", data={"username": "anna", "password": "pw-anna"})
                for _ in range(6)
            ]
            time.sleep(0.1)
            replies = [
                hospital.client.get("/datastore/image?image=case.axial", headers=headers),
                hospital.client.get("/info/", headers=headers),
            ]
            # While they were answered the realm still kept the others waiting: no clock decides, on any machine.
            logins_done = sum(login.done() for login in logins)
            assert [reply.status_code for reply in replies] == [OK, OK]
            assert logins_done < len(logins)
            assert {login.result().status_code for login in logins} == {OK}
    finally:
        realm.delay_s = 0.0


def test_a_realm_that_never_answers_is_given_up(hospital: Served, realm: OidcIssuer):
    realm.delay_s = 3.0
    started = time.monotonic()
    try:
        reply = hospital.client.post("/auth/token", data={"username": "anna", "password": "pw-anna"})
    finally:
        realm.delay_s = 0.0
    assert reply.status_code == AWAY
    assert time.monotonic() - started < 2.9
    assert "within 2 s" in reply.json()["detail"]


def test_the_login_is_checked_before_the_body_is_read(hospital: Served, realm: OidcIssuer):

    for headers, status in (({}, UNAUTHORISED), (realm.header("vera"), FORBIDDEN)):
        reply = hospital.client.put(
            "/datastore/image?image=new",
            content=b"no multipart body at all",
            headers={**headers, "content-type": "multipart/form-data; boundary=x"},
        )
        assert reply.status_code == status


@pytest.mark.parametrize(
    ("setting", "claims", "roles"),
    [
        ("realm_access#roles", {"realm_access": {"roles": ["monailabel-admin"]}}, ["monailabel-admin"]),
        ("resource_access#medai.app#roles", {"resource_access": {"medai.app": {"roles": ["r"]}}}, ["r"]),
        ("realm_access.roles", {"realm_access": {"roles": ["r"]}}, ["r"]),
        ("https://hospital.example/roles", {"https://hospital.example/roles": ["r", 5]}, ["r"]),
        ("groups", {"groups": "one two"}, ["one", "two"]),
        ("groups", {"groups": {"a": 1}}, []),
        ("a#b#c", {"a": ["b"]}, []),
    ],
)
def test_roles_are_found_wherever_the_realm_puts_them(
    monkeypatch: pytest.MonkeyPatch, setting: str, claims: dict[str, Any], roles: list[str]
):
    from monailabel.config import settings

    from medai.server.logins import user_of_claims

    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_TOKEN_ROLES", setting)
    assert user_of_claims({"preferred_username": "anna", **claims}).roles == roles


# -- who is who --------------------------------------------------------------------------------------------------------


def test_slicers_download_without_a_login_gets_the_case_its_login_was_just_given(
    hospital: Served, realm: OidcIssuer, monkeypatch: pytest.MonkeyPatch
):
    client, now = hospital.client, [0.0]
    monkeypatch.setattr(hospital.client.app.state.handed_out, "_now", lambda: now[0])  # type: ignore[attr-defined]
    case = client.post("/activelearning/first", headers=realm.header("adam"), json={}).json()["id"]
    other = "case.axial" if case != "case.axial" else "case_oblique"

    def download(case_id: str, **headers: str) -> int:
        return client.get(f"/datastore/image?image={case_id}", headers=headers).status_code

    assert (download(case), download(other)) == (OK, UNAUTHORISED)
    line = audited(hospital, user="adam")[-1]
    assert (line["route"], line["case"], line["by"]) == ("/datastore/image", case, "next sample")
    assert download(case, Authorization="Bearer nonsense") == UNAUTHORISED
    assert client.get(f"/datastore/label?label={case}&tag=final").status_code == UNAUTHORISED
    now[0] = HANDED_OUT_S + 1
    assert download(case) == UNAUTHORISED
    monkeypatch.setattr(hospital.app, "options", hospital.app.options.model_copy(update={"slicer_downloads": False}))
    again = client.post("/activelearning/first", headers=realm.header("adam"), json={}).json()["id"]
    assert download(again) == UNAUTHORISED
    for case_id in (case, again):
        hospital.app.reservations.release(case_id)


def test_the_login_beats_the_client_id_everywhere(hospital: Served, realm: OidcIssuer, tmp_path: Path):
    client, headers = hospital.client, realm.header("ben")
    case = client.post("/activelearning/first", headers=headers, json={"client_id": "somebody"}).json()["id"]
    assert hospital.app.reservations.holder(case) == "ben"
    click = {"label": "nodule", "foreground": [[8, 9, 10]], "background": [], "client_id": "somebody"}
    reply = client.post(
        f"/infer/nodule_click?image={case}", headers=realm.header("vera"), data={"params": json.dumps(click)}
    )
    assert reply.status_code == OK
    assert hospital.app.reservations.holder(case) == "ben"
    annotation = submit(hospital, headers, case, tmp_path, client_id="somebody")
    assert annotation.annotator == "ben"
    info = client.get(f"/datastore/label/info?label={case}&tag=final", headers=headers).json()
    assert (info["user"], info["client_id"]) == ("ben", "ben")


def test_a_reviewer_reviews_and_nobody_approves_their_own(hospital: Served, realm: OidcIssuer, tmp_path: Path):
    case = "case_flipped"
    submit(hospital, realm.header("rita"), case, tmp_path)

    def say(who: str, status: str) -> Any:
        meta = {"segmentationMeta": {"status": status, "approvedBy": "Somebody Else", "level": "easy"}}
        return hospital.client.put(
            f"/datastore/updatelabelinfo?label={case}&tag=final",
            headers=realm.header(who),
            data={"params": json.dumps(meta)},
        )

    def state() -> tuple[str, str]:
        annotation = hospital.app.annotations.log.current(case, "final")
        assert annotation is not None
        return annotation.review.value, annotation.review_by

    own = say("rita", "approved")
    assert own.status_code == FORBIDDEN
    assert "nobody approves their own" in own.json()["detail"]
    by_annotator = say("anna", "approved")
    assert by_annotator.status_code == FORBIDDEN
    assert "reviewer" in by_annotator.json()["detail"]
    assert say("vera", "approved").status_code == FORBIDDEN
    assert state() == ("", "")
    assert say("rita", "segmented").status_code == OK
    flagged = say("adam", "flagged")
    assert flagged.json() == {"review": "flagged", "by": "adam"}
    assert say("rita", "").status_code == FORBIDDEN
    assert say("rita", "flagged").status_code == OK
    assert state() == ("flagged", "adam")
    assert say("adam", "approved").json() == {"review": "approved", "by": "adam"}
    info = hospital.client.get(f"/datastore/label/info?label={case}&tag=final", headers=realm.header("vera")).json()
    assert info["segmentationMeta"]["approvedBy"] == "adam"


@pytest.mark.parametrize("word", ["approved", " Approved ", "APPROVED"])
def test_an_upload_does_not_approve_itself(hospital: Served, realm: OidcIssuer, tmp_path: Path, word: str):
    case = "case_oblique"
    submit(hospital, realm.header("rita"), case, tmp_path, segmentationMeta={"status": word, "approvedBy": "adam"})
    info = hospital.client.get(f"/datastore/label/info?label={case}&tag=final", headers=realm.header("vera")).json()
    assert info["segmentationMeta"] == {"status": "segmented", "approvedBy": ""}


def test_keeping_an_answer_as_a_label_asks_for_an_annotator(hospital: Served, realm: OidcIssuer):
    click = {"label": "nodule", "foreground": [[8, 9, 10]], "background": [], "save_label": True, "label_tag": "draft"}
    path = "/infer/nodule_click?image=case.axial"
    for who, status in (("vera", FORBIDDEN), ("anna", OK)):
        reply = hospital.client.post(path, headers=realm.header(who), data={"params": json.dumps(click)})
        assert reply.status_code == status


# -- the audit log -----------------------------------------------------------------------------------------------------


def audited(hospital: Served, **wanted: Any) -> list[dict[str, Any]]:
    assert hospital.app.audit is not None
    assert hospital.app.audit.flush()
    return list(read_audit(hospital.study, **wanted))


def test_every_request_of_content_leaves_a_line_with_who_and_what(hospital: Served, realm: OidcIssuer, tmp_path: Path):
    client, before = hospital.client, len(audited(hospital))
    scan = client.get("/datastore/image?image=case.axial", headers=realm.header("vera"))
    client.get("/datastore/image?image=case.axial")
    client.get("/datastore/label?label=case.axial&tag=final", headers=realm.header("guest"))
    submit(hospital, realm.header("ben"), "case.axial", tmp_path)
    client.post("/auth/token", data={"username": "anna", "password": "wrong-secret"})
    client.put("/datastore/image?image=Doe%5EJane", headers=realm.header("vera"))
    client.delete("/datastore/label?id=nothing&tag=final", headers=realm.header("adam"))
    client.get("/info/", headers=realm.header("vera"))
    client.get("/nothing/here")
    client.get("/auth/")
    lines = audited(hospital)[before:]
    assert [(line["user"], line["method"], line["route"], line["case"], line["status"]) for line in lines] == [
        ("vera", "GET", "/datastore/image", "case.axial", 200),
        ("", "GET", "/datastore/image", "case.axial", 401),
        ("guest", "GET", "/datastore/label", "case.axial", 403),
        ("ben", "PUT", "/datastore/label", "case.axial", 200),
        ("anna", "POST", "/auth/token", "", 401),
        ("vera", "PUT", "/datastore/image", lines[5]["case"], 403),
        ("adam", "DELETE", "/datastore/label", lines[6]["case"], 404),
    ]
    assert lines[0]["bytes"] == len(scan.content)
    assert lines[0]["roles"] == ["monailabel-user"]
    assert lines[3]["tag"] == "final"
    assert lines[3]["received"] > 100
    assert lines[5]["case"].startswith("name-")
    text = json.dumps(lines)
    for secret in ("wrong-secret", "eyJ", "Bearer", "Doe"):
        assert secret not in text
    assert audited(hospital, case="Doe^Jane")[-1] == lines[5]


def test_the_case_that_was_handed_out_and_the_new_one_are_named(hospital: Served, realm: OidcIssuer):
    given = hospital.client.post("/activelearning/first", headers=realm.header("anna"), json={}).json()
    line = audited(hospital, user="anna")[-1]
    assert (line["route"], line["case"]) == ("/activelearning/{strategy}", given.get("id", ""))
    scan = (hospital.study / "case.axial.nii.gz").read_bytes()
    hospital.client.put(
        "/datastore/image", headers=realm.header("anna"), files={"file": ("s0077.nii.gz", scan, "application/gzip")}
    )
    line = audited(hospital, user="anna")[-1]
    assert (line["route"], line["case"], line["status"]) == ("/datastore/image", "s0077", 200)


def test_thousands_of_refusals_are_counted_instead_of_written(hospital: Served, monkeypatch: pytest.MonkeyPatch):
    from medai.server import audit

    monkeypatch.setattr(audit, "REFUSALS_A_MINUTE", 5)
    before = len(audited(hospital))
    for _ in range(40):
        hospital.client.get("/datastore/image?image=case.axial")
    assert len(audited(hospital)) - before <= 10


def test_a_log_that_cannot_be_written_is_told_and_refuses_nothing_unless_it_is_required(
    hospital: Served, realm: OidcIssuer, monkeypatch: pytest.MonkeyPatch
):
    from medai.store import audit_log

    def refuses(path: Path, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audit_log, "RETRY_S", 0.05)
    monkeypatch.setattr(audit_log, "_append", refuses)
    get: dict[str, Any] = {"url": "/medai/status", "headers": realm.header("vera")}
    assert hospital.client.get(**get).status_code == OK
    log = hospital.app.audit
    assert log is not None
    while not log.problem:
        time.sleep(0.01)
    reply = hospital.client.get(**get)
    assert reply.status_code == OK
    assert any("audit log cannot be written" in warning for warning in reply.json()["warnings"])
    monkeypatch.setattr(hospital.app, "options", hospital.app.options.model_copy(update={"audit": "required"}))
    refused = hospital.client.get(**get)
    assert refused.status_code == HTTPStatus.INSUFFICIENT_STORAGE
    assert "audit log" in refused.json()["detail"]
    assert hospital.client.get("/info/", headers=realm.header("vera")).status_code == OK


def submit(hospital: Served, headers: dict[str, str], case: str, folder: Path, **params: Any) -> Any:
    """Submit a ball's label; what the history says of it."""
    import numpy as np

    from medai.domain import LabelMap, Segment
    from medai.volume_io.readers import read_geometry
    from medai.volume_io.writers import write_label_map

    geometry = read_geometry(hospital.study / f"{case}.nii.gz")
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    labels[6:10, 7:11, 9:12] = 1
    path = folder / "label.nii.gz"
    segment = Segment(value=1, name="nodule", colour_rgb=(200, 100, 50))
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(segment,)), path)
    sent = {"label_info": [{"name": "nodule", "idx": 1}], **params}
    reply = hospital.client.put(
        f"/datastore/label?image={case}&tag=final",
        headers=headers,
        data={"params": json.dumps(sent)},
        files={"label": ("label.nii.gz", path.read_bytes())},
    )
    assert reply.status_code == HTTPStatus.OK, reply.text
    return hospital.app.annotations.log.current(case, "final")
