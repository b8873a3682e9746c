"""Words that users meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str]) -> str:
    """A question after the nearest of the known words, as the end of a message; empty if no word
    is near.
    """
    by_name = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(word.casefold(), by_name, n=1, cutoff=0.75)
    return f"; did you mean {by_name[found[0]]}?" if found else ""
