"""Which names a server answers to, and which pages may change something."""

import asyncio
from typing import Any

import pytest

from medai.server.origins import AllowedNames, OriginCheck, host_name

LOOPBACK, LAN = ("127.0.0.1", 8000), ("192.0.2.7", 8000)


def answered(
    *,
    server: tuple[str, int | None] = LOOPBACK,
    method: str = "GET",
    hosts: str = "",
    origins: tuple[str, ...] = (),
    **headers: str,
) -> int:
    """The status that a request gets."""
    status = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "headers": raw, "server": server}
    check = OriginCheck(app, AllowedNames.of(hosts, origins))
    asyncio.run(check(scope, None, send))  # type: ignore[arg-type]
    return status[0]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "127.0.0.1:8000",
        "127.8.9.1",
        "[::1]:8000",
        "[::ffff:127.0.0.1]",
        "a.localhost",
    ],
)
def test_loopback_names_are_answered_everywhere(host: str) -> None:
    for server in (LOOPBACK, ("::1", 8000), LAN):
        assert answered(server=server, host=host) == 200
        assert answered(server=server, host=host, hosts="medai.example.org") == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8000",
        "localhost.rebound.example",
        "127.0.0.1.rebound.example",
        "0.0.0.0",
        "2130706433",
        "127.1",
        "[::2]",
        "[::1",
        "localhost:80:80",
        "localhost:x",
        "notlocalhost",
        "192.0.2.7",
        "",
        ":8000",
        "localhost\xa0",
    ],
)
def test_a_loopback_server_answers_to_no_foreign_name(host: str) -> None:
    assert answered(host=host) == 421
    assert answered(server=("::1", 8000), host=host, method="POST") == 421


def test_clients_without_the_header_and_other_addresses_are_answered() -> None:
    assert answered() == 200
    assert answered(server=LAN, host="anything.example") == 200
    assert answered(server=("/run/medai.sock", None), host="anything.example") == 200


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ("medai.example.org", "medai.example.org", 200),
        ("medai.example.org", "MEDAI.example.org.:8443", 200),
        ("other, Medai.Example.org:8443", "medai.example.org", 200),
        ("medai.example.org", "evil.example.org", 421),
        ("*.example.org", "a.b.example.org", 200),
        ("*.example.org", "example.org", 421),
        ("*.example.org", "badexample.org", 421),
        ("192.0.2.7", "192.0.2.7:8000", 200),
        ("*", "whatever.example", 200),
    ],
)
def test_names_are_a_setting(hosts: str, host: str, status: int) -> None:
    assert answered(host=host, hosts=hosts) == status
    assert answered(server=LAN, host=host, hosts=hosts) == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("server", [LOOPBACK, LAN])
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://localhost.evil.example",
        "http://127.0.0.1:8000@evil.example",
        "file://",
        "http://192.0.2.7:9999",
        "http://[::1",
        "http://localhost/x",
        "ftp://localhost",
        "chrome-extension://abc",
    ],
)
def test_a_foreign_page_changes_nothing(method: str, server: tuple[str, int], origin: str) -> None:
    host = f"{server[0]}:{server[1]}"
    assert answered(server=server, method=method, host=host, origin=origin) == 403
    assert answered(server=server, method="GET", host=host, origin=origin) == 200


@pytest.mark.parametrize(
    ("server", "host", "origin"),
    [
        (LAN, "192.0.2.7:8000", "http://192.0.2.7:8000"),
        (LAN, "medai.example.org", "https://medai.example.org"),
        (LAN, "Medai.example.org:443", "https://medai.example.org"),
        (LAN, "medai.example.org:8443", "https://MEDAI.example.org:8443"),
        (LOOPBACK, "localhost:8000", "http://127.0.0.1:3000"),
        (LOOPBACK, "127.0.0.1:8000", "http://localhost:8000"),
        (LOOPBACK, "127.0.0.1:8000", "http://[::1]:5173"),
    ],
)
def test_the_servers_own_pages_and_this_machines_may(server: tuple[str, int], host: str, origin: str) -> None:
    assert answered(server=server, method="POST", host=host, origin=origin) == 200


def test_loopback_pages_are_foreign_to_a_server_elsewhere() -> None:
    assert answered(server=LAN, method="PUT", host="192.0.2.7:8000", origin="http://localhost:3000") == 403


def test_behind_a_proxy_that_ends_tls() -> None:
    page = "https://medai.example.org"
    for host in ("medai.example.org", "127.0.0.1:8000"):
        assert answered(method="POST", host=host, origin=page, hosts="medai.example.org") == 200
        assert answered(method="POST", host=host, origin="https://evil.example", hosts="medai.example.org") == 403
    forwarded = {"x-forwarded-host": "medai.example.org"}
    assert answered(method="POST", host="127.0.0.1:8000", origin=page, **forwarded) == 403
    assert answered(host="rebound.example", **forwarded) == 421


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (("https://viewer.example/",), "https://viewer.example", 200),
        (("https://viewer.example",), "https://viewer.example:8443", 403),
        (("https://viewer.example",), "http://viewer.example", 403),
        (("null",), "null", 200),
        (("*",), "https://anything.example", 200),
    ],
)
def test_pages_are_a_setting(origins: tuple[str, ...], origin: str, status: int) -> None:
    assert answered(method="POST", host="localhost", origin=origin, origins=origins) == status


def test_what_is_no_host_has_no_name() -> None:
    assert host_name("Name.Example.:80") == "name.example"
    assert host_name("fe80::1") == "fe80::1"
    assert host_name("a:b:") == "a:b:"
    assert host_name(" ") is None
