"""Errors of models and weights that a user reads: one line that says what is wrong and what to do."""

from __future__ import annotations

import re

# Of a URL, user and password: up to the last @ of its host, or of all that follows what is no port.
_LOGIN = re.compile(r"(?<=://)([^/?#\s]*|[^/?#\s@:]*:(?!\d*([/?#\s]|$))\S*)@")
_TO_LAST_AT = re.compile(r"(?<!\S)\S*@")  # of a word: looking for a login where no @ follows takes long


class ModelError(Exception):
    """A model or its weights cannot be had, or cannot do what is asked (exit code 1). Whatever the message quotes, it
    shows no URL's password."""

    exit_code = 1

    def __init__(self, *args: object):
        super().__init__(*(without_logins(arg) if isinstance(arg, str) else arg for arg in args))


class ModelUsageError(ModelError):
    """A profile, a model's name or a device that does not exist (exit code 2)."""

    exit_code = 2


def without_logins(text: str) -> str:
    """``text`` with *** for the user and password of every URL in it: ``http://***@mirror.example.org/weights``."""
    return _TO_LAST_AT.sub(lambda word: _LOGIN.sub("***@", word[0]), text)
