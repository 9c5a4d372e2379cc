"""Requests as broken, careless and hostile clients send them, from a seeded generator.

A request is drawn from what the server knows (every route with its parameters) and then spoilt in one or two places:
text that is too long, odd or no text at all, numbers that are none, JSON that is deep or torn, forms without an end,
files that are cut off or say what they are not. Nothing here is aimed at any other software: what is sent is read by
our own checks.
"""

from __future__ import annotations

import gzip
import json
import string
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

TEXTS = (
    "",
    " ",
    "nodule",
    "case.axial",
    "..",
    "../../evil",
    "/etc/passwd",
    "C:\\temp",
    "a" * 300,
    "ä" * 200,
    "x" * 5000,
    "line\nbreak",
    "tab\tzero\0",
    "\u202eright to left",
    "nodule e\u0301",
    "CON",
    ".hidden",
    "%00",
    "null",
    "NaN",
    "-1",
    "1e999",
    "true",
    "[]",
    "{}",
    "<b>bold</b>",
    "'; --",
    "${HOME}",
)
LONE_SURROGATE = json.loads('"\\ud800"')
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    [],
    {},
    [[]],
    [1, 2],
    [[1, 2, 3]],
    [[1, 2, 3, 4]],
    [[-5, 2, 3]],
    [["1", "2", "3"]],
    [[1e9, 1e9, 1e9]],
    [[0.5, 1, 1]],
    [0, 5, 0, 5, 0, 5],
    [[8, 9, 10]] * 200,
    {"a": {"b": {"c": []}}},
    LONE_SURROGATE,
    *TEXTS,
)
MODELS = ("nodule_click", "nodule_click", "nope", "Histogram%2BGraphCut")
LONG_WORK = ("nodule_segmentation", "nodule_detection", "nodule_classification", "lungs")
"""Tasks that take a second or more each: asked for now and then."""
CASES = ("case.axial", "case_oblique", "case_flipped", "none_such")
TAGS = ("final", "original", "mine", "../x", "")
PARAMS = (
    "foreground",
    "background",
    "label",
    "roi",
    "client_id",
    "result_extension",
    "index_frame",
    "label_tag",
    "label_info",
    "max_epochs",
    "device",
    "segmentationMeta",
    "selected_label_name",
    "max_batch_size",
    "nodule",
)
# Method, path, parameters of the query, whether it takes a JSON body, and its file's field.
ROUTES: tuple[tuple[str, str, tuple[str, ...], bool, str], ...] = (
    ("GET", "/info/", (), False, ""),
    ("GET", "/", (), False, ""),
    ("GET", "/auth/", (), False, ""),
    ("GET", "/logs/", ("lines",), False, ""),
    ("GET", "/datastore/", ("output",), False, ""),
    ("GET", "/datastore/image", ("image",), False, ""),
    ("HEAD", "/datastore/image", ("image", "check_sum"), False, ""),
    ("GET", "/datastore/image/info", ("image",), False, ""),
    ("PUT", "/datastore/image/info", ("image",), False, "info"),
    ("GET", "/datastore/label", ("label", "tag"), False, ""),
    ("HEAD", "/datastore/label", ("image", "tag"), False, ""),
    ("GET", "/datastore/label/info", ("label", "tag"), False, ""),
    ("PUT", "/datastore/label/info", ("label", "tag"), False, "info"),
    ("PUT", "/datastore/updatelabelinfo", ("label", "tag"), False, "params"),
    ("PUT", "/datastore/image", ("image",), False, "file"),
    ("PUT", "/datastore/", ("image",), False, "file"),
    ("PUT", "/datastore/label", ("image", "tag"), False, "label"),
    ("DELETE", "/datastore/label", ("id", "tag"), False, ""),
    ("DELETE", "/datastore/image", ("id",), False, ""),
    ("PUT", "/session/", ("expiry", "uncompress"), False, "files"),
    ("GET", "/session/{text}", ("update_ts", "image"), False, ""),
    ("DELETE", "/session/{text}", (), False, ""),
    ("POST", "/infer/{model}", ("image", "session_id", "output"), False, "params"),
    ("POST", "/infer/{model}", ("image", "output"), False, "file"),
    ("POST", "/infer/{model}", ("image",), False, "label"),
    ("POST", "/activelearning/{text}", (), True, ""),
    ("GET", "/train/", ("all", "check_if_running"), False, ""),
    ("POST", "/train/{text}", ("run_sync", "enqueue"), True, ""),
    ("DELETE", "/train/", (), False, ""),
    ("GET", "/scoring/", ("all",), False, ""),
    ("POST", "/scoring/{text}", (), True, ""),
    ("DELETE", "/scoring/", (), False, ""),
    ("GET", "/batch/infer", ("all",), False, ""),
    ("POST", "/batch/infer/{text}", ("images",), True, ""),
    ("GET", "/model/info/{model}", (), False, ""),
    ("GET", "/model/{text}", (), False, ""),
    ("GET", "/medai/annotations", ("case", "annotator", "review", "quarantined"), False, ""),
    ("GET", "/medai/status", ("text",), False, ""),
    ("GET", "/medai/models", (), False, ""),
    ("GET", "/medai/models/{text}", (), False, ""),
    ("GET", "/openapi.json", (), False, ""),
    ("PATCH", "/datastore/label", ("image",), True, ""),
)
FILE_NAMES = (
    "scan.nii.gz",
    "scan.nii",
    "scan.nrrd",
    "scan.mha",
    "label.seg.nrrd",
    "boxes.json",
    "x.exe",
    "",
    "..",
    "a/b",
)


@dataclass(slots=True)
class Request:
    """One request, ready to be sent.

    Attributes:
        method: of HTTP.
        path: with its query, percent-encoded.
        headers: beside the length of the body.
        body: as it is sent.
        upload: the scan's id or the session that would be there afterwards, if it is accepted: "image", "label",
            "session" or "".
    """

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    upload: str = ""


class Mutations:
    """An endless supply of requests.

    Args:
        rng: decides everything.
        scan: a sound scan as ``.nii.gz``, of which spoilt ones are made.
        label: a sound label of the case "case.axial" as ``.nii.gz``.
    """

    def __init__(self, rng: np.random.Generator, scan: bytes, label: bytes) -> None:
        self._rng = rng
        self._files = (scan, label, gzip.decompress(scan), gzip.decompress(label), *_headers())

    def next(self) -> Request:
        """The next request."""
        method, path, names, takes_json, part = ROUTES[int(self._rng.integers(len(ROUTES)))]
        model = self._one(LONG_WORK if self._chance(0.02) else MODELS)
        text = model if self._chance(0.01) else quote(self._text(), safe="")
        path = path.replace("{model}", model).replace("{text}", text)
        given = [name for name in names if self._chance(0.7)]
        query = "&".join(f"{name}={quote(self._query(name), safe='')}" for name in given)
        request = Request(method=method, path=f"{path}?{query}" if query else path)
        if takes_json:
            request.headers["Content-Type"] = "application/json"
            request.body = self._torn(json.dumps(self._values()).encode("utf-8", "surrogatepass"))
        elif part:
            self._fill_form(request, part)
        if self._chance(0.05):
            request.headers["Content-Type"] = self._one(
                ("text/plain", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "image/gif")
            )
        if self._chance(0.03):
            request.headers["Authorization"] = f"Bearer {self._one(('x', 'a.b.c', 'e' * 4000))}"
        return request

    def _fill_form(self, request: Request, part: str) -> None:
        edge = "----" + "".join(self._rng.choice(list(string.ascii_letters), 12))
        request.headers["Content-Type"] = f"multipart/form-data; boundary={edge}"
        parts = []
        if part in ("file", "label", "files"):
            name = self._one(FILE_NAMES)
            parts += [_part(edge, part, self._file(), name)] * (int(self._rng.integers(1, 4)) if part == "files" else 1)
            request.upload = {"file": "image", "label": "label", "files": "session"}[part]
            if request.path.startswith("/infer"):
                request.upload = ""
        if part in ("params", "info") or self._chance(0.5):
            name = "info" if part == "info" else "params"
            text = json.dumps(self._values()).encode("utf-8", "surrogatepass")
            parts.append(_part(edge, name, self._torn(text), None))
        request.body = self._torn(b"".join(parts) + f"--{edge}--\r\n".encode())

    def _values(self) -> Any:
        if self._chance(0.1):
            return self._one(VALUES)
        names = [name for name in PARAMS if self._chance(0.25)]
        values = {name: self._one(VALUES) for name in names}
        if self._chance(0.5):
            values |= {"foreground": [[8, 9, 10]], "background": []}
        if self._chance(0.02):
            nested: Any = 1
            for _ in range(int(self._rng.integers(50, 900))):
                nested = [nested]
            values["nested"] = nested
        if self._chance(0.05):
            values[self._text()] = 1
        return values

    def _file(self) -> bytes:
        content = bytearray(self._one(self._files))
        kind = int(self._rng.integers(5))
        if kind == 0 and content:
            return bytes(content[: int(self._rng.integers(len(content)))])
        if kind == 1 and content:
            for _ in range(int(self._rng.integers(1, 8))):
                content[int(self._rng.integers(min(len(content), 400)))] = int(self._rng.integers(256))
        if kind == 2:
            content += bytes(int(self._rng.integers(1, 2000)))
        return bytes(content)

    def _query(self, name: str) -> str:
        if self._chance(0.5):
            if name in ("image", "label", "id", "case"):
                return self._one(CASES)
            if name == "tag":
                return self._one(TAGS)
        return self._text()

    def _text(self) -> str:
        return self._one(TEXTS)

    def _torn(self, content: bytes) -> bytes:
        """The content, now and then cut off or with a byte that is no UTF-8."""
        if content and self._chance(0.05):
            return content[: int(self._rng.integers(len(content)))]
        if self._chance(0.03):
            place = int(self._rng.integers(len(content) + 1))
            return content[:place] + b"\xed\xa0\x80" + content[place:]
        return content

    def _one(self, choices: Any) -> Any:
        return choices[int(self._rng.integers(len(choices)))]

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)


def _part(edge: str, name: str, content: bytes, file_name: str | None) -> bytes:
    file = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def _headers() -> tuple[bytes, ...]:
    """Headers that promise more than there is."""
    large = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 60000 60000 60000\nencoding: gzip\nendian: little\n\n"
    listed = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 2\nencoding: raw\nendian: little\ndata file: LIST\na\nb\n"
    )
    text = (
        b"ObjectType = Image\nNDims = 3\nDimSize = 9000 9000 9000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    inflated = gzip.compress(bytes(20_000_000), 9)
    return large, listed, text, inflated, b"", b"\x1f\x8b", b"%PDF-1.4", bytes(128) + b"DICM"
