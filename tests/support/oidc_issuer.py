"""A small OpenID Connect issuer on the loopback address: what a hospital's realm does, and how it fails.

Real HTTP: discovery, key list, and a token endpoint with the password and refresh grants. Keys can be changed, the
whole can be stopped and started on the same port, and its answers can be made slow.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "monailabel-app"


@dataclass
class Person:
    password: str
    roles: list[str]


@dataclass
class OidcIssuer:
    """One realm; use it as a context manager.

    Attributes:
        people: who can log in, by name.
        delay_s: waited before every answer.
        requests: path of everything asked, in order.
    """

    people: dict[str, Person] = field(default_factory=dict)
    delay_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    issuer_name: str = ""
    port: int = 0

    def __enter__(self) -> OidcIssuer:
        self.rotate()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/hospital"

    @property
    def name(self) -> str:
        return self.issuer_name or self.url

    def start(self) -> None:
        """Listen, on the same port as before."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                issuer._answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                issuer._answer(self, dict(urllib.parse.parse_qsl(body)))

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until started again."""
        self._server.shutdown()
        self._server.server_close()

    def rotate(self) -> None:
        """Sign with a new key; the old one leaves the list."""
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = f"key-{time.monotonic_ns()}"

    def claims(self, username: str, **changed: Any) -> dict[str, Any]:
        """What Keycloak puts into an access token; None removes a claim."""
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": "account",
            "azp": CLIENT_ID,
            "typ": "Bearer",
            "sub": f"id-{username}",
            "iat": now,
            "exp": now + 300,
            "preferred_username": username,
            "realm_access": {"roles": self.people[username].roles if username in self.people else []},
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, username: str, **changed: Any) -> str:
        """A token signed with the present key."""
        return self.sign(self.claims(username, **changed))

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.key_id, **headers})

    def header(self, username: str, **changed: Any) -> dict[str, str]:
        """An Authorization header."""
        return {"Authorization": f"Bearer {self.token(username, **changed)}"}

    def _answer(self, handler: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        path = handler.path.removeprefix("/realms/hospital")
        self.requests.append(path)
        time.sleep(self.delay_s)
        status, content = self._content(path, form)
        body = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _content(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.name,
                "jwks_uri": f"{self.url}/certs",
                "token_endpoint": f"{self.url}/token",
            }
        if path == "/certs":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
            shared = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "use": "sig"}
            return 200, {"keys": [shared, {**public, "kid": self.key_id, "use": "sig", "alg": "RS256"}]}
        if path == "/token":
            return self._token_answer(form)
        return 404, {}

    def _token_answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form.get("client_id") != CLIENT_ID:
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "refresh_token":
            username = form.get("refresh_token", "").removeprefix("refresh-")
        else:
            username = form.get("username", "")
            if username not in self.people or self.people[username].password != form.get("password"):
                return 401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}
        return 200, {
            "access_token": self.token(username),
            "token_type": "Bearer",
            "expires_in": 300,
            "refresh_token": f"refresh-{username}",
            "id_token": "not passed on",
        }
