"""The realm that issues tokens, as OpenID Connect describes itself: discovery, signing keys, token endpoint.

A hospital's realm is another machine: it restarts, it is slow, it changes its keys. So its keys are kept. A token that
is signed with a known key costs no request; the keys are fetched anew every ``FRESH_S`` beside the work, and at once
for a key id nobody has seen, but no more often than ``REFETCH_S``, or anyone could make this server flood the realm.
Where the realm does not answer, the keys known go on working and everything else is ``RealmAwayError`` (503).
(PyJWT's own ``PyJWKClient`` forgets its keys after their lifespan, and holds a lock over a slow fetch that tokens with
known keys wait at; its parser is used, not its cache.)

Threads: any. One lock guards the keys and is held for no request. At most one fetch runs at a time, in a thread of its
own; whoever needs it waits for its future.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import jwt
import requests

from medai.errors import MedaiError

logger = logging.getLogger(__name__)

FRESH_S = 600.0
"""Keys older than this are fetched anew, beside the work: a key the realm has withdrawn is forgotten by then."""

REFETCH_S = 10.0
"""Between two fetches, whoever asks."""

LARGEST_ANSWER_BYTES = 1 << 20
_DISCOVERY = "/.well-known/openid-configuration"


class RealmAwayError(MedaiError):
    """The realm does not answer, or not as OpenID Connect wants it; asking again may help.

    Attributes:
        retry_after_s: when to ask again.
    """

    def __init__(self, message: str, *, retry_after_s: float = REFETCH_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoginRefusedError(MedaiError):
    """The realm knows no such name and password, or no such refresh token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerOptions:
    """Where the realm is.

    Attributes:
        url: its address; ``/.well-known/openid-configuration`` is below it.
        issuer: what it calls itself (``iss``) where that is not its address.
        timeout_s: for one request to it, as a whole.
    """

    url: str
    issuer: str = ""
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Realm:
    """What was fetched.

    Attributes:
        issuer: what the realm calls itself.
        token_endpoint: where a password is exchanged for a token; "" where it says of none.
        keys: of signatures, by id.
        fetched_s: when, on the clock of the ``Issuer``.
    """

    issuer: str
    token_endpoint: str
    keys: Mapping[str, jwt.PyJWK]
    fetched_s: float


@dataclass(slots=True)
class _Fetching:
    running: Future[None] | None = None
    tried_s: float = float("-inf")
    failure: str = field(default="")


class Issuer:
    """One realm and what is known of it."""

    def __init__(self, options: IssuerOptions, *, now: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._url = options.url.rstrip("/")
        self._now = now
        self._lock = threading.Lock()
        self._realm: _Realm | None = None
        self._fetch = _Fetching()

    @property
    def name(self) -> str:
        """What the realm calls itself, as far as it is known."""
        realm = self._realm
        return realm.issuer if realm else self._options.issuer or self._url

    def known_key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id, at once; without an id the only key there is. Old keys are fetched anew beside that."""
        realm = self._realm
        if realm is None:
            return None
        if self._now() - realm.fetched_s > FRESH_S:
            self.refresh()
        if key_id is None:
            return next(iter(realm.keys.values())) if len(realm.keys) == 1 else None
        return realm.keys.get(key_id)

    def refresh(self) -> Future[None] | None:
        """Fetch the keys anew; the future of the fetch, or None where one ended less than ``REFETCH_S`` ago."""
        with self._lock:
            if self._fetch.running is not None:
                return self._fetch.running
            if self._now() - self._fetch.tried_s < REFETCH_S:
                return None
            future: Future[None] = Future()
            # Whoever stops waiting does not cancel it for the others.
            future.set_running_or_notify_cancel()
            self._fetch.running = future
        threading.Thread(target=self._run_fetch, args=(future,), name="medai-realm", daemon=True).start()
        return future

    def check_reached(self) -> None:
        """Raise ``RealmAwayError`` where the last fetch failed, or none has succeeded yet."""
        if self._fetch.failure or self._realm is None:
            words = self._fetch.failure or "it has not answered yet"
            raise RealmAwayError(f"The login server cannot be asked: {words}. Try again in a moment.")

    def exchange(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Exchange a password or a refresh token for an access token; blocking.

        Raises:
            LoginRefusedError: the realm refuses it.
            RealmAwayError: the realm does not answer, or refuses this server.
        """
        if self._realm is None:
            running = self.refresh()
            if running is not None:
                running.result()
        if self._realm is None:
            self.check_reached()
        endpoint = self._realm.token_endpoint if self._realm else ""
        if not endpoint:
            raise RealmAwayError(f"The login server {self.name} names no token endpoint.", retry_after_s=60)
        status, content = self._ask("POST", endpoint, form)
        if status == HTTPStatus.OK and isinstance(content.get("access_token"), str):
            return content
        error = str(content.get("error") or "")
        if error == "invalid_grant" or (status == HTTPStatus.UNAUTHORIZED and not error):
            raise LoginRefusedError("The login server refused this name and password.")
        logger.error("The token endpoint %s answered %d %s", endpoint, status, error)
        raise RealmAwayError(
            f"The login server gives no token ({status} {error}). Its client needs the password grant "
            "('direct access grants' in Keycloak); ask who runs it.",
            retry_after_s=60,
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _run_fetch(self, future: Future[None]) -> None:
        failure = ""
        try:
            realm = self._fetch_realm()
        except Exception as error:  # noqa: BLE001  # whoever waits must be told, whatever it was
            realm = None
            failure = str(error) if isinstance(error, MedaiError) else f"{type(error).__name__}: {error}"
            logger.warning("The keys of %s could not be fetched: %s", self._url, failure)
        with self._lock:
            if realm is not None:
                if self._realm is not None and set(realm.keys) != set(self._realm.keys):
                    logger.info("The login server has new keys: %s", ", ".join(sorted(realm.keys)))
                self._realm = realm
            self._fetch = _Fetching(tried_s=self._now(), failure=failure)
        future.set_result(None)

    def _fetch_realm(self) -> _Realm:
        address = self._url + _DISCOVERY
        discovery = self._get(address)
        issuer, jwks_uri = discovery.get("issuer"), discovery.get("jwks_uri")
        if not isinstance(issuer, str) or not isinstance(jwks_uri, str):
            raise RealmAwayError(f"{address} names no 'issuer' and 'jwks_uri'")
        wanted = self._options.issuer or self._url
        if issuer.rstrip("/") != wanted.rstrip("/"):
            raise RealmAwayError(
                f"{address} calls itself '{issuer}', not '{wanted}': set MONAI_LABEL_AUTH_REALM_URI to that, or "
                f"--conf auth_issuer={issuer} where this server has to reach it by another address"
            )
        endpoint = discovery.get("token_endpoint")
        return _Realm(
            issuer=issuer,
            token_endpoint=endpoint if isinstance(endpoint, str) else "",
            keys=_signing_keys(self._get(jwks_uri), jwks_uri),
            fetched_s=self._now(),
        )

    def _get(self, address: str) -> dict[str, Any]:
        status, content = self._ask("GET", address)
        if status != HTTPStatus.OK or not content:
            raise RealmAwayError(f"{address} answered {status}{'' if content else ' without a JSON object'}")
        return content

    def _ask(self, method: str, address: str, form: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON object ({} where it is none), within the time and the size allowed."""
        if not address.startswith(("http://", "https://")):
            raise RealmAwayError(f"'{address[:200]}' is no http address")
        # A trickle of bytes resets a socket's time-out, so the whole has a deadline of its own.
        deadline = time.monotonic() + self._options.timeout_s
        body = bytearray()
        try:
            with requests.request(
                method, address, data=form, timeout=self._options.timeout_s, allow_redirects=False, stream=True
            ) as reply:
                if reply.is_redirect:
                    raise RealmAwayError(f"{address} is elsewhere now: {reply.headers.get('location', '')[:200]}")
                for block in reply.iter_content(1 << 14):
                    body += block
                    if len(body) > LARGEST_ANSWER_BYTES:
                        raise RealmAwayError(f"{address} answered more than {LARGEST_ANSWER_BYTES >> 10} KB")
                    if time.monotonic() > deadline:
                        raise RealmAwayError(f"{address} did not answer within {self._options.timeout_s:g} s")
                status = reply.status_code
        except requests.Timeout as error:
            raise RealmAwayError(f"{address} did not answer within {self._options.timeout_s:g} s") from error
        except (requests.RequestException, OSError) as error:
            raise RealmAwayError(f"{address} cannot be reached ({type(error).__name__})") from error
        try:
            content = json.loads(bytes(body))
        except (ValueError, RecursionError):
            content = {}
        return status, content if isinstance(content, dict) else {}


def _signing_keys(content: Mapping[str, Any], address: str) -> dict[str, jwt.PyJWK]:
    """Public keys for signatures, by id; keys of a kind nobody here reads are passed over."""
    keys: dict[str, jwt.PyJWK] = {}
    listed = content.get("keys")
    for number, entry in enumerate(listed if isinstance(listed, list) else ()):
        # A shared secret ("oct") among public keys would let whoever reads the list sign tokens.
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if entry.get("use") not in (None, "sig"):
            continue
        try:
            keys[str(entry.get("kid") or f"#{number}")] = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            logger.info("A key of %s is passed over: %s", address, error)
    if not keys:
        raise RealmAwayError(f"{address} lists no key for signatures")
    return keys
