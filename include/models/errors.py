"""Errors of models and weights for users: one line that says what is wrong and what to do."""

from __future__ import annotations

import re

# User and password of a URL: up to the last @ of its host or, if no port follows the colon, of the whole word.
_LOGIN = re.compile(r"(?<=://)([^/?#\s]*|[^/?#\s@:]*:(?!\d*([/?#\s]|$))\S*)@")
_TO_LAST_AT = re.compile(r"(?<!\S)\S*@")  # in a word: a search for a login is slow if no @ follows


class ModelError(Exception):
    """A model or its weights are not available, or cannot do what is asked (exit code 1). The message never shows a
    URL's password, whatever it quotes."""

    exit_code = 1

    def __init__(self, *args: object):
        super().__init__(*(without_logins(arg) if isinstance(arg, str) else arg for arg in args))


class ModelUsageError(ModelError):
    """A profile, a model's name or a device that does not exist (exit code 2)."""

    exit_code = 2


def without_logins(text: str) -> str:
    """``text`` with *** for the user and password of every URL in it: ``http://***@mirror.example.org/weights``."""
    return _TO_LAST_AT.sub(lambda word: _LOGIN.sub("***@", word[0]), text)
