"""Starts the server: checks what can be checked before the slow imports, then hands over to uvicorn."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import logging.handlers
import os
import re
import resource
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import medai
from medai.errors import InputError, NotFoundError, StorageError
from medai.server import compat
from medai.server.memory import bound_heaps
from medai.server.settings import ServerSettings
from medai.store.layout import state_folder

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

LOG_BYTES = 10 << 20
LOG_FILES = 5
GRACEFUL_SHUTDOWN_S = 5
"""How long requests under way may take to end; a click takes a third of a second, a whole scan eight."""
LONGEST_SHUTDOWN_S = 14.0
"""After this the process leaves, whatever still runs: all that was acknowledged is on disk."""
KEEP_ALIVE_S = 30
_BACKLOG = 128
_OPEN_FILES = 16_384
"""Open files the server may have, where the system lets it: connections, uploads, memory maps of scans."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How to serve a study.

    Attributes:
        studies: the study folder; it must exist and be writable.
        host: address to listen on. Anything but loopback opens the server, which asks for no password by default, to
            the network, so it is never chosen for the user.
        port: port, or 0 for any that is free.
        conf: settings of the app (``ServerSettings``), as strings.
        on_ready: called with the server's address once it answers.
    """

    studies: Path
    host: str = "127.0.0.1"
    port: int = 8000
    conf: Mapping[str, str] = field(default_factory=dict)
    on_ready: Callable[[str], None] | None = None


def run_server(options: LaunchOptions) -> None:
    """Serve until interrupted.

    Raises:
        InputError: the port is taken, the host is unknown, or a setting is wrong.
        NotFoundError: the study folder does not exist.
        StorageError: the study folder cannot be written.
    """
    ServerSettings.from_conf(options.conf)
    studies = _usable_folder(options.studies)
    with _listen(options.host, options.port) as listener:
        port = int(listener.getsockname()[1])
        if not _is_loopback(options.host):
            logger.warning(
                "Listening on %s: everyone on that network can read the scans and change the labels", options.host
            )
        bound_heaps()
        _start_log(state_folder(studies))
        app_dir = app_folder(studies)
        conf = _conf_for(options.host, options.conf)
        compat.export_platform(app_dir=app_dir, studies=studies, conf=conf, port=port)
        compat.configure_platform(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            port=port,
            session_path=state_folder(studies) / "sessions",
        )
        _serve(listener, url=f"http://{_url_host(options.host)}:{port}", on_ready=options.on_ready)


def app_folder(studies: Path) -> Path:
    """The folder with ``main.py`` that MONAI Label loads.

    In a checkout that is ``apps/medai``. An installed package may lie where nobody can write, and MONAI Label's own
    start command makes folders beside ``main.py``, so there the study gets a copy.
    """
    package = Path(medai.__file__).parent
    checkout = package.parents[1] / "apps" / "medai"
    if (checkout / "main.py").is_file():
        return checkout
    target = state_folder(studies) / "app"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(package / "app" / "main.py", target / "main.py")
    return target


def _usable_folder(studies: Path) -> Path:
    folder = studies.expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"There is no study folder {folder}. Make one with: medai import SCANS --to {folder}")
    folder = folder.resolve()
    state = state_folder(folder)
    try:
        state.mkdir(exist_ok=True)
        probe = state / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"The study folder {folder} cannot be written ({error.strerror}): labels would be lost. Change its "
            "permissions, or serve a copy of it."
        ) from error
    return folder


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"The host '{host}' is unknown ({error.strerror}); 127.0.0.1 serves this machine.") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"Port {port} on {host} is taken, perhaps by another medai serve. Stop it, or choose another --port."
            ) from error
        raise InputError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _conf_for(host: str, conf: Mapping[str, str]) -> dict[str, str]:
    """The settings as a server on this address wants them, unless they were given.

    A client on another machine is not told paths of this one, and knows the server by names that are not known here
    (also to a proxy on this machine, which comes in on loopback).
    """
    return dict(conf) if _is_loopback(host) else {"share_paths": "false", "allowed_hosts": "*", **conf}


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not listened on
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


class OneLineFormatter(logging.Formatter):
    """A log's lines: what a client wrote can neither begin one of its own nor move the terminal's cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line, with control characters as Python writes them; a traceback follows on lines of its own."""
        return _CONTROLS.sub(lambda found: ascii(found.group())[1:-1], super().formatMessage(record))


def _start_log(folder: Path) -> None:
    """Keep the server's log beside the study: ids and versions, never a patient's name."""
    # OpenVINO's converter gives a root logger without handlers one of its own, which prints messages unformatted.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / "logs" / "server.log",
        maxBytes=LOG_BYTES,
        backupCount=LOG_FILES,
        encoding="utf-8",
        errors="backslashreplace",
    )
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"))
    for name in ("medai", "uvicorn.error"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)


def _leave_anyway() -> None:
    logger.warning(
        "The server did not end within %g s and leaves; all that was acknowledged is on disk", LONGEST_SHUTDOWN_S
    )
    logging.shutdown()
    os._exit(0)


def _raise_file_limit() -> None:
    """Let the process have more files open than the 1,024 that systems start with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _serve(listener: socket.socket, *, url: str, on_ready: Callable[[str], None] | None) -> None:
    import uvicorn

    from medai.server.connections import BoundedProtocol

    _raise_file_limit()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and on_ready:
                on_ready(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            from medai.server.asgi import app, stop_long_work

            overdue = threading.Timer(LONGEST_SHUTDOWN_S, _leave_anyway)
            overdue.daemon = True
            overdue.start()
            stop_long_work(app)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        "medai.server.asgi:app",
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    # uvicorn raises the interrupt again after it has shut down in order: for a server that is the usual end.
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])
