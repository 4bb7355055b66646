"""Errors of models and weights for users: one line that says what is wrong and what to do."""

from __future__ import annotations

import re
from typing import Self

# User and password of a URL: up to the last @ of its host or, if no port follows the colon, of the whole word.
_LOGIN = re.compile(r"(?<=://)([^/?#\s]*|[^/?#\s@:]*:(?!\d*([/?#\s]|$))\S*)@")
_TO_LAST_AT = re.compile(r"(?<!\S)\S*@")  # in a word: a search for a login is slow if no @ follows


def coded(code: str, text: str) -> str:
    """``text`` with the code of what is wrong at its end, which docs/operations.md has an entry for."""
    return f"{text} [{code}]"


class CodedError(Exception):
    """An error that a user reads: one line, and a code that names what is wrong whatever the words (exit code 1).

    ``str()`` has the code at the end, in brackets; who quotes an error within another takes its ``message``. Whatever
    that quotes, it shows no URL's password.
    """

    exit_code = 1

    def __init__(self, code: str, message: str):
        super().__init__(code, without_logins(message))  # as args, so that it can be pickled

    @property
    def code(self) -> str:
        return str(self.args[0])

    @property
    def message(self) -> str:
        return str(self.args[1])

    def at(self, where: str) -> Self:
        """The same error, whose message begins with ``where`` unless that is empty."""
        return type(self)(self.code, f"{where}: {self.message}") if where else self

    def __str__(self) -> str:
        return coded(self.code, self.message)


class ModelError(CodedError):
    """A model or its weights cannot be had, or cannot do what is asked."""


class ModelUsageError(ModelError):
    """A profile, a model's name or a device that does not exist (exit code 2)."""

    exit_code = 2


def without_logins(text: str) -> str:
    """``text`` with *** for the user and password of every URL in it: ``http://***@mirror.example.org/weights``."""
    return _TO_LAST_AT.sub(lambda word: _LOGIN.sub("***@", word[0]), text)
