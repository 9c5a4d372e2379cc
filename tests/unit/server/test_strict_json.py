"""What JSON and text from a request may hold, and that what is refused is named."""

import json
import time
from typing import Any

import pytest

from medai.errors import InputError
from medai.server.request_body import json_object
from medai.server.strict_json import DEEPEST, MOST_VALUES, check_line, check_text, read_json


@pytest.mark.parametrize(
    "value",
    [
        {"foreground": [[8, 9, 10]], "label": "Knoten, ~8 mm", "comment": "two\nlines\twith a tab"},
        {"name": "\U0001fac1 lunge", "confidence": 0.25, "n": -(2**63) + 1, "deep": [[[[[[1]]]]]]},
        {"empty": {}, "none": None, "flag": True},
    ],
)
@pytest.mark.parametrize("as_ascii", [True, False])
def test_plain_documents_pass_unchanged(value: Any, as_ascii: bool) -> None:
    assert json_object(json.dumps(value, ensure_ascii=as_ascii), "params") == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (r'{"client_id": "ann\ud800"}', r"params\.client_id.*no valid Unicode"),
        (r'{"label_info": [{"name": "nod\udfff", "idx": 1}]}', r"params\.label_info\[0\]\.name"),
        (r'{"a": {"b": ["x", {"\ud83d": 1}]}}', "a key of params.*no valid Unicode"),
        ('{"label": "x\\u0000"}', r"params\.label.*control character '\\x00'"),
        ('{"comment": "\\u001b[31m"}', r"params\.comment.*control character"),
        (r'{"client_id": "ann\n2026-01-01 INFO all is well"}', r"params\.client_id.*'\\n'"),
        ('{"tag": "final", "tag": "other"}', "'tag' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "Infinity is no number"),
        ('{"a": 1e999}', r"params\.a.*beyond the range"),
        ('{"a": 18446744073709551616}', "more than 63 bits"),
        ('{"a": ' + "7" * 10_000 + "}", "not JSON"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", f"deeper than the {DEEPEST}"),
        ('{"a": ' + "[" * 9_000 + "]" * 9_000 + "}", f"deeper than the {DEEPEST}"),
        ('{"a": ' * 9_000 + "1" + "}" * 9_000, f"deeper than the {DEEPEST}"),
        ('{"a": [' + "1," * MOST_VALUES + "1]}", f"more than the {MOST_VALUES} values"),
        ("{" + ",".join(f'"k{n}": 1' for n in range(MOST_VALUES + 2)) + "}", f"more than the {MOST_VALUES} values"),
        ('{"a": "' + "x" * 2000 + '"}', None),
        ('{"client_id": "' + "x" * 2000 + '"}', r"params\.client_id.*2000 characters"),
        ('["label"]', "takes a JSON object"),
        ("nonsense\ud800", "not JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name_and_quickly(text: str, says: str | None) -> None:
    begun = time.perf_counter()
    if says is None:
        assert json_object(text, "params")
    else:
        with pytest.raises(InputError, match=says) as refused:
            json_object(text, "params")
        assert str(refused.value).isprintable()
    assert time.perf_counter() - begun < 0.5


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(InputError, match="'body' is not UTF-8 text: byte 0xed at position 8"):
        read_json(b'{"a": "x\xed\xa0\x80"}', "body")


def test_names_are_one_line_and_texts_may_be_several() -> None:
    assert check_text("a\r\nb", "comment") == "a\r\nb"
    with pytest.raises(InputError, match=r"'name' holds the control character '\\u2028' at position 1"):
        check_line("a\u2028b", "name")
