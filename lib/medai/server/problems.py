"""Errors as the client sees them: a status, and one sentence in ``detail`` that says what is valid.

Anything that was not raised on purpose is a fault of ours: the client gets a number to quote, the log gets the
traceback.
"""

from __future__ import annotations

import errno
import logging
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)

from medai.errors import (
    CancelledByUserError,
    ConflictError,
    ForbiddenError,
    InputError,
    MedaiError,
    ModelError,
    NotFoundError,
    StorageError,
)
from medai.server.limits import RETRY_AFTER_S
from medai.volume_io.atomic import disk_words, is_full, own_fault

logger = logging.getLogger(__name__)

LONGEST_DETAIL = 2000
"""Characters of an answer's ``detail``."""

_STATUS: tuple[tuple[type[MedaiError], HTTPStatus], ...] = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ConflictError, HTTPStatus.CONFLICT),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (CancelledByUserError, HTTPStatus.CONFLICT),
    (ModelError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StorageError, HTTPStatus.INSUFFICIENT_STORAGE),
)


def status_of(error: MedaiError) -> HTTPStatus:
    """The HTTP status of an error raised on purpose."""
    fault = own_fault(error) if isinstance(error, StorageError) else None
    if fault is not None and not is_full(fault):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Answer every error of the app's routes as JSON."""
    app.add_exception_handler(MedaiError, _on_medai_error)
    app.add_exception_handler(MONAILabelException, _on_platform_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(OSError, _on_disk_error)
    app.add_exception_handler(MemoryError, _on_no_memory)
    app.add_exception_handler(Exception, _on_fault)


async def _on_medai_error(_: Request, error: Exception) -> JSONResponse:
    status = status_of(error) if isinstance(error, MedaiError) else HTTPStatus.INTERNAL_SERVER_ERROR
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s", error, exc_info=error.__cause__)
    return _problem(status, str(error))


async def _on_platform_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return _problem(HTTPStatus.NOT_FOUND, str(error.msg))
    if isinstance(error, MONAILabelException) and error.error is MONAILabelError.INVALID_INPUT:
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error.msg))
    return await _on_fault(request, error)


async def _on_disk_error(request: Request, error: Exception) -> JSONResponse:
    """A disk or a table of open files that is full may be met anywhere, such as where uploads lie for a moment."""
    if not isinstance(error, OSError) or error.errno is None:
        return await _on_fault(request, error)
    logger.error("%s %s: %s", request.method, request.url.path, error)
    if is_full(error):
        detail = f"The server's disk is full: {disk_words(error)}. Nothing was changed by halves."
        return _problem(HTTPStatus.INSUFFICIENT_STORAGE, detail)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _busy("The server has as many files open as it may")
    detail = f"The server cannot read or write its own files: {disk_words(error)}. Nothing was changed by halves."
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)


async def _on_no_memory(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s: out of memory", request.method, request.url.path, exc_info=error)
    return _busy("The server's memory does not suffice for this now")


async def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    sentences = [f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in problems]
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(sentences) or "The request cannot be read.")


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    number = uuid.uuid4().hex[:8]
    logger.error("Fault %s in %s %s", number, request.method, request.url.path, exc_info=error)
    return _problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"The server failed on this request (fault {number}); its log says why. Nothing was changed by halves.",
    )


def _busy(reason: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}: try again in a moment.", headers)


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    if len(detail) > LONGEST_DETAIL:
        # A message names the value that is wrong, and a file or a request chooses how long that is.
        detail = f"{detail[: LONGEST_DETAIL * 3 // 4]} … {detail[-LONGEST_DETAIL // 4 :]}"
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
