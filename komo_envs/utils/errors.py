"""Errors in words that every terminal, file and reader of JSON can take."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""A text without control characters and halves of characters: they become escapes, ``\x1b``.

    A byte of a path that is not UTF-8 becomes ``\udce9``, as Python itself shows it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe(error: BaseException) -> str:
    """The type and message of an error in one printable line, whatever the error is."""
    try:
        message = str(error)
    except Exception as other:
        message = f"its message cannot be had: {type(other).__name__}"
    return printable(f"{type(error).__name__}: {' '.join(message.split())}")
