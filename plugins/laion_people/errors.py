"""Errors that a user reads: one line that says what is wrong and what to do. The exit code goes with the class."""


class LaionPeopleError(Exception):
    """A step failed (exit code 1)."""

    exit_code = 1


class UsageError(LaionPeopleError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2
