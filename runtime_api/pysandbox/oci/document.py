"""JSON from files that nobody vouches for: config.json, process.json, resources.

Stricter than `json.load`: a document that two readers could understand differently is refused. Duplicate keys, NaN and
Infinity, NUL and lone surrogates in strings, integers that no field could hold, deep nesting, anything after the
document, text that is not UTF-8, a file that is not a file. A member whose value is null counts as absent, as it does
for programs that read the same file in Go.
"""

from __future__ import annotations

import json
import os
import stat

from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

#: Bytes. The largest config.json seen in practice, with a seccomp profile, is under 200 KiB.
SIZE_LIMIT = 4 << 20
DEPTH_LIMIT = 64

#: Seconds that a pipe may take to deliver a document.
_PIPE_TIMEOUT = 10.0
_LARGEST = 2**64 - 1
_SMALLEST = -(2**63)


class _Excess:
    """Stands in the tree for a number that is too large, until its path is known."""


_EXCESS = _Excess()


def open_document(path: str, what: str) -> int:
    """Open a regular file that may not be a symbolic link, and return its descriptor (CLOEXEC).

    Raises InvalidArgument for anything else, FileNotFoundError if there is nothing.
    """
    # O_NONBLOCK: a FIFO in the file's place would stop us here for ever.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidArgument(f"{what}: {_reason(path, error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgument(f"{what}: not a regular file")
    return descriptor


def open_stream(path: str, what: str) -> int:
    """Open what a person names on the command line: a regular file or a pipe (`<(…)` of a shell), links followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"open {path}: {_text(error)}") from None
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(descriptor)
        raise InvalidArgument(f"{what}: not a regular file or a pipe")
    return descriptor


def read_json(source: int | bytes, what: str) -> Any:
    """Parse a whole document from a descriptor (left open) or from bytes.

    `what` names the document in errors: `config.json: line 3, column 7: expecting value`. Raises InvalidArgument, and
    nothing else but OSError from reading.
    """
    data = source if isinstance(source, bytes) else _read(source, what)
    if len(data) > SIZE_LIMIT:
        raise InvalidArgument(f"{what}: larger than {SIZE_LIMIT} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{what}: not UTF-8 at byte {error.start}") from None
    return _parse(text, what)


def read_object(source: int | bytes, what: str) -> dict[str, Any]:
    """Parse a document that must be an object."""
    document = read_json(source, what)
    if type(document) is not dict:
        raise InvalidArgument(f"{what}: must be a JSON object")
    return document


def format_path(keys: list[str | int]) -> str:
    """Write a JSON path as people do: `linux.namespaces[2].type`, `linux.sysctl["net.core.somaxconn"]`."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.isidentifier() and key.isascii():
            text += f".{key}" if text else key
        else:
            text += f"[{quote(key)}]"
    return text


def quote(value: str) -> str:
    """Quote for an error: on one line, in ASCII, and not longer than a reader's patience."""
    return json.dumps(value if len(value) <= 64 else value[:61] + "...")


def _read(descriptor: int, what: str) -> bytes:
    """Read to the end, but never more than one byte over the limit."""
    chunks, size = [], 0
    while size <= SIZE_LIMIT:
        try:
            chunk = os.read(descriptor, min(1 << 16, SIZE_LIMIT + 1 - size))
        except BlockingIOError:
            _wait(descriptor, what)
            continue
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _wait(descriptor: int, what: str) -> None:
    import select  # only pipes come here

    if not select.select([descriptor], [], [], _PIPE_TIMEOUT)[0]:
        raise InvalidArgument(f"{what}: nothing to read for {_PIPE_TIMEOUT:.0f} seconds")


def _parse(text: str, what: str) -> Any:
    repeated: list[tuple[dict[str, Any], str]] = []
    excess: list[str] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=_object_hook(repeated),
        parse_int=_integer_hook(excess),
        parse_float=_float_hook(excess),
        parse_constant=_constant,
    )
    try:
        document = decoder.decode(text)
    except json.JSONDecodeError as error:
        problem = (error.msg[:1].lower() + error.msg[1:]).replace("character at", "character")
        raise InvalidArgument(f"{what}: line {error.lineno}, column {error.colno}: {problem}") from None
    except RecursionError:
        raise InvalidArgument(f"{what}: nested deeper than {DEPTH_LIMIT} levels") from None
    except ValueError as error:
        raise InvalidArgument(f"{what}: {error}") from None
    _check_depth(document, what)
    if repeated:
        # The last one noted is the outermost: no other duplicate can have hidden it from the walk.
        _refuse_duplicate(document, *repeated[-1], what)
    if excess:
        _refuse(document, lambda value: value is _EXCESS, "number out of range", what)
    _check_strings(document, text, what)
    return document


def _object_hook(repeated: list[tuple[dict[str, Any], str]]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            repeated.append((members, _first_repeated(pairs)))
        elif None in members.values():
            members = {name: value for name, value in pairs if value is not None}
        return members

    return build


def _first_repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


def _integer_hook(excess: list[str]) -> Callable[[str], Any]:
    def convert(digits: str) -> Any:
        # 20 characters hold every 64-bit number; int() itself refuses, or takes long over, thousands of digits.
        if len(digits) <= 20:
            value = int(digits)
            if _SMALLEST <= value <= _LARGEST:
                return value
        excess.append(digits[:20])
        return _EXCESS

    return convert


def _float_hook(excess: list[str]) -> Callable[[str], Any]:
    def convert(digits: str) -> Any:
        value = float(digits)
        if value - value != 0:  # infinite
            excess.append(digits[:20])
            return _EXCESS
        return value

    return convert


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_depth(document: Any, what: str) -> None:
    level = [document]
    for _ in range(DEPTH_LIMIT + 1):
        if not level:
            return
        level = [
            child
            for node in level
            if type(node) is dict or type(node) is list
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
    raise InvalidArgument(f"{what}: nested deeper than {DEPTH_LIMIT} levels")


def _check_strings(document: Any, text: str, what: str) -> None:
    """Refuse NUL and lone surrogates. Both can only come from an escape: the text itself is UTF-8 without controls."""
    if "\\u0000" in text:
        _refuse(document, lambda value: type(value) is str and "\0" in value, "NUL in a string", what)
    if "\\ud" in text or "\\uD" in text:
        _refuse(document, _has_surrogate, "lone surrogate in a string", what)


def _has_surrogate(value: Any) -> bool:
    return type(value) is str and any("\ud800" <= character <= "\udfff" for character in value)


def _refuse(document: Any, wrong: Callable[[Any], bool], problem: str, what: str) -> None:
    for path, value in _walk(document):
        if wrong(value):
            place = format_path(path)
            raise InvalidArgument(f"{what}: {place}: {problem}" if place else f"{what}: {problem}")


def _refuse_duplicate(document: Any, members: dict[str, Any], name: str, what: str) -> NoReturn:
    place = next((format_path(path) for path, value in _walk(document) if value is members), "")
    raise InvalidArgument(f"{what}: duplicate key {quote(name)}" + (f" in {place}" if place else ""))


def _walk(document: Any) -> Iterator[tuple[list[str | int], Any]]:
    """Yield every value with its path; a member's name comes before its value, under the same path."""
    stack: list[tuple[list[str | int], Any]] = [([], document)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if type(value) is dict:
            for name, member in value.items():
                yield [*path, name], name
                stack.append(([*path, name], member))
        elif type(value) is list:
            stack.extend(([*path, index], member) for index, member in enumerate(value))


def _reason(path: str, error: OSError) -> str:
    if os.path.islink(path):
        return "is a symbolic link"
    return _text(error)


def _text(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
