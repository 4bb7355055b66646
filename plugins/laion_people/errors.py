"""Errors that a user reads: one line that says what is wrong and what to do. The exit code goes with the class."""

KEPT = "what is finished is kept"
GO_ON = f"{KEPT}: clear the task, or run the command again, to go on"


class LaionPeopleError(Exception):
    """A step failed (exit code 1)."""

    exit_code = 1


class UsageError(LaionPeopleError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


def one_line(text: object, most: int = 1000) -> str:
    """``text`` as one line of a log or a message: nothing that a terminal would obey, ``most`` characters at most."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."
