"""A document on its way to a file: the place is taken before anything is measured, and never left half written."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysandbox.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Self

#: Bytes of a document that is read.
LIMIT = 64 << 20


class Target:
    """A file that appears under its name when it is complete. Gone, if it never is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._new = f"{path}.{secrets.token_hex(4)}.new"
        self._written = False

    def __enter__(self) -> Self:
        """Take the place: what cannot be written is known before minutes are spent. Raises OSError."""
        if os.path.isdir(self.path):
            raise IsADirectoryError(21, os.strerror(21), self.path)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._new, flags, 0o644)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is not complete."""
        if not self._written:
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                os.unlink(self._new)

    def write(self, text: str) -> None:
        """Write all of it and give it its name. Raises OSError with the name, for example for a full disk."""
        try:
            with open(self._descriptor, "wb", closefd=False) as file:
                file.write(text.encode())
            os.fsync(self._descriptor)
            os.rename(self._new, self.path)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}: it was not written; the tables have the figures", self.path
            ) from None
        self._written = True
        os.close(self._descriptor)


def as_json(document: Any) -> str:
    """Return a document as text; what JSON has no number for is a bug."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: str) -> Any:
    """Return what a JSON file holds. Raises InvalidArgument for what is none, OSError."""
    with open(path, "rb") as file:
        text = file.read(LIMIT + 1)
    try:
        if len(text) > LIMIT:
            raise ValueError(f"more than {LIMIT >> 20} MiB")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: is no JSON document: {error}") from None


def schema() -> str:
    """Return the published JSON schema of a comparison, whose `bench` is what `bench --json` writes."""
    return Path(__file__).with_name("schema.json").read_text(encoding="utf-8")
