"""Records in JSON, checked as they are read."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

Record = TypeVar("Record")


def parse_json(record: type[Record], text: str | bytes, source: str) -> Record:
    """Read a record, one of pydantic's dataclasses, from JSON.

    Raises:
        ValueError: ``text`` is no such record; the message begins with ``source``, and names the
            first field that is wrong, what was expected and what was there.
    """
    try:
        return TypeAdapter(record).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        got = f", got {first['input']!r:.80}" if first["type"] != "missing" else ""
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{source}: {where}: {said}{got}") from None
