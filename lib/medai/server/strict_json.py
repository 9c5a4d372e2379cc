"""JSON and text from a request, read so strictly that what is accepted can be kept, logged and sent anywhere.

Python's own reader takes more than JSON has: lone surrogates (half a character, which no file, database or log takes),
NaN, a key twice (the last one wins), numbers of any length, nesting until the interpreter gives up.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from medai.errors import InputError

MOST_VALUES = 20_000
"""Values in one document; a thousand clicks are four thousand."""

DEEPEST = 32
LARGEST_INTEGER = 1 << 63
_MOST_DIGITS = 40
LONGEST_LINE = 1024
"""Characters of what is a name or an address: a query parameter, a key, a file's name."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LINE_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ONE_LINE = frozenset({"client_id", "image", "label", "label_tag", "model", "strategy", "tag"})
"""Keys whose values name something, and so are one line each."""


def check_text(text: str, name: str) -> str:
    """Return text that may run over several lines.

    Raises:
        InputError: it is no valid Unicode (a lone surrogate), or holds a control character; ``name`` is named.
    """
    return _checked(text, name, _CONTROLS)


def check_line(text: str, name: str) -> str:
    """Return text of one line, such as a name.

    Raises:
        InputError: as ``check_text``, or it holds a line break, or more than ``LONGEST_LINE`` characters.
    """
    if len(text) > LONGEST_LINE:
        raise InputError(f"'{name}' has {len(text)} characters; it takes {LONGEST_LINE} at most.")
    return _checked(text, name, _LINE_CONTROLS)


def read_json(content: str | bytes, name: str) -> Any:
    """Decode JSON.

    Args:
        content: the document; the caller has bounded its size.
        name: of the field it came in, for messages.

    Raises:
        InputError: not JSON, not UTF-8, or more than what is taken; the message names the field and the place.
    """
    text = content if isinstance(content, str) else _decoded(content, name)
    # Counted before anything is built: a few bytes of JSON make an object of a hundred.
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise InputError(f"'{name}' holds more than the {MOST_VALUES} values taken.")
    try:
        value = json.loads(text, parse_int=whole_number, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise InputError(f"'{name}' is nested deeper than the {DEEPEST} levels taken.") from error
    except ValueError as error:
        raise InputError(f"'{name}' is not JSON ({error}): {text[:120]!a}.") from error
    for place, key, found in _walk(value, name):
        if isinstance(found, str):
            (check_line if key in _ONE_LINE else check_text)(found, place)
        elif isinstance(found, float) and not math.isfinite(found):
            raise InputError(f"'{place}' is a number beyond the range of double precision.")
        elif isinstance(found, int) and abs(found) >= LARGEST_INTEGER:
            raise InputError(f"'{place}' is a whole number of more than 63 bits.")
    return value


def whole_number(digits: str) -> int:
    """Read a whole number of JSON; ValueError in plain words where it is so long that it is none of ours."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _walk(root: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """Every scalar of a document with its place and its key; no recursion."""
    left: list[tuple[str, str, Any, int]] = [(name, "", root, 0)]
    while left:
        place, key, value, depth = left.pop()
        if not isinstance(value, dict | list):
            yield place, key, value
            continue
        if depth >= DEEPEST:
            raise InputError(f"'{name}' is nested deeper than the {DEEPEST} levels taken.")
        if isinstance(value, list):
            left += ((f"{place}[{i}]", key, item, depth + 1) for i, item in enumerate(value))
            continue
        for each, item in value.items():
            # A key is shown only after it was checked.
            left.append((f"{place}.{check_line(each, f'a key of {name}')}", each, item, depth + 1))


def _checked(text: str, name: str, refused: re.Pattern[str]) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"'{name}' is no valid Unicode text: {text[error.start]!a} at position {error.start} is half a "
                "character. Send UTF-8."
            ) from error
    found = refused.search(text)
    if found:
        raise InputError(
            f"'{name}' holds the control character {found.group()!a} at position {found.start()}; leave it out."
        )
    return text


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{name}' is not UTF-8 text: byte 0x{content[error.start]:02x} at position {error.start}. Send UTF-8."
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {ascii(twice)[:60]} stands there twice")
    return found
