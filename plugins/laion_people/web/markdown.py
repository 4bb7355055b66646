"""Markdown as HTML that is safe to show, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from markdown_it import MarkdownIt

from laion_people.web.pages import web_link


def rendered(text: str, is_followed: Callable[[str], bool]) -> tuple[str, str]:
    """The first heading and the HTML of a text; headings have the ids that links on GitHub lead to.

    What is HTML in the text is shown as text, a picture as a link to it. Mermaid's graphs are left out: Airflow draws
    the same. Links to the web open another window: this one is a frame of Airflow's. Others lead somewhere if
    ``is_followed`` says so.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = [token for token in markdown.parse(text) if token.info != "mermaid"]
    title = ""
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            title = title or inline.content
            heading.attrSet("id", re.sub(r"[^\w -]", "", inline.content.lower()).replace(" ", "-"))
    for link in (child for token in tokens for child in token.children or () if child.type == "link_open"):
        address = str(link.attrGet("href"))
        if web_link(address):
            link.attrs |= {"target": "_blank", "rel": "noreferrer"}
        elif not is_followed(address):
            del link.attrs["href"]
    return title, markdown.renderer.render(tokens, markdown.options, {})
