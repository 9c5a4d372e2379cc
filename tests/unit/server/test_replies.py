"""What leaves the server can be read by every client."""

import cgi
import io
import json
from enum import Enum, IntEnum, StrEnum
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medai.server.replies import PlainJSONResponse, multipart_reply, plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


class Tag(StrEnum):
    FINAL = "final"


class Number(IntEnum):
    TWO = 2


class Mixed(Enum):
    NOTHING = float("nan")


@given(VALUES)
def test_whatever_is_said_is_strict_json(value):
    body = PlainJSONResponse(value).body
    json.loads(body, parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


def test_numbers_of_numpy_paths_sets_and_enums():
    value = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": Path("x/y"),
        Tag.FINAL: {Number.TWO},
        "gone": Mixed.NOTHING,
        "also": np.float64("inf"),
        "list": [np.nan, 1],
        "none": None,
    }
    assert plain(value) == {"a": 0.5, "b": [0, 1, 2], "c": "x/y", "final": [2], "list": [None, 1], "none": None}


def test_two_parts_are_what_the_slicer_plugin_parses():
    payload = bytes(range(256)) * 3 + b"\r\n--"
    reply = multipart_reply(
        {"label_names": {"Knötchen": 1}, "x": float("nan")},
        payload=payload,
        file_name="a.nrrd",
        media_type="application/octet-stream",
    )
    form = cgi.FieldStorage(
        fp=io.BytesIO(reply.body),
        environ={"REQUEST_METHOD": "POST"},
        headers={"content-type": reply.headers["content-type"], "content-length": str(len(reply.body))},
    )
    assert json.loads(form["params"].value) == {"label_names": {"Knötchen": 1}}
    assert form["image"].filename == "a.nrrd"
    assert form["image"].value == payload
