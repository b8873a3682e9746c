"""Pages of one file: all is inside, and a browser asks for nothing more."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent / "templates"


def render(template: str, scripts: tuple[str, ...] = (), **values: Any) -> str:
    """A page, in which no value can be more than text.

    What is not markup of the templates is escaped; should a tag slip through all the same, the
    page's content security policy lets the browser run and load nothing but what is named by its
    hash.

    Args:
        template: A file in ``pages``, that extends ``base.html``.
        scripts: Files in ``pages``, run after that which sorts tables.
        values: What the template asks for.
    """
    style = _file("page.css")
    script = "".join(map(_file, ("tables.js", *scripts)))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    page = _templates().get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("benchmark.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
