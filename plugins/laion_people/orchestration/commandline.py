"""The worker's command line, ``bin/laion-people``, as a task holds it: the same for a process and for a pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from laion_people.errors import coded


class CommandLineMixin:
    """What a task that runs ``bin/laion-people`` is given, and the arguments that it makes of that.

    ``command`` is the DAG author's: a subcommand with its options. ``partitions`` (a key, or a list of keys),
    ``shards``, ``clusters``, and the values of ``values`` (options by name), ``overrides`` (settings by name) and
    ``flags`` (on or off, by name) may come from a run's key, its parameters or another task: they are passed as single
    arguments, never through a shell.
    ``shards`` may be a group as `plan` gives it: all its ``shards``, and by step those that it has to make.

    It comes before the operator among the bases of a class, which has a constructor of its own: Airflow wraps only
    constructors that an operator class defines.
    """

    template_fields: Sequence[str] = ("partitions", "shards", "clusters", "values", "overrides", "flags")

    def __init__(
        self,
        *,
        command: Sequence[str],
        partitions: Any = None,
        shards: Any = None,
        clusters: Any = None,
        values: Any = None,
        overrides: Any = None,
        flags: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.command, self.partitions, self.shards, self.clusters = command, partitions, shards, clusters
        self.values, self.overrides, self.flags = values, overrides, flags

    @property
    def has_nothing_to_make(self) -> bool:
        """Whether the step of this task has made all shards of its group before."""
        return isinstance(self.shards, dict) and self.shards.get(self.command[-1]) == ""

    @property
    def chosen_shards(self) -> str | None:
        """The shards to work on, as ``--shards`` takes them: those of the step, or all of the group if it has none."""
        if not isinstance(self.shards, dict):
            return self.shards
        return str(self.shards.get(self.command[-1]) or self.shards["shards"])

    def command_line(self, **options: Any) -> list[str]:
        """The arguments of ``bin/laion-people``, once the templates are rendered; ``options`` are added.

        A parameter that a template renders is text: an override "None" or "" is left out, a flag is on when it is
        "True". Raises AirflowFailException for a run that lacks its partition key.
        """
        partitions = self.partitions
        keys = list(partitions or ()) if isinstance(partitions, (list, tuple, type(None))) else [partitions]
        if partitions is not None and not all(keys):
            raise AirflowFailException(
                coded(
                    "no-partition-key",
                    "this run has no partition key: trigger the DAG with Advanced options > Partition Key, for example "
                    "laion2B-en/00042, or trigger laion_people_discover with the partitions as its parameter",
                )
            )
        options = {"shards": self.chosen_shards, "clusters": self.clusters} | (self.values or {}) | options
        overrides, flags = self.overrides or {}, self.flags or {}
        return [
            *self.command,
            *(f"--{name}={value}" for name, value in options.items() if value),
            *(f"--set={name}={value}" for name, value in overrides.items() if str(value) not in ("None", "")),
            *(f"--{name.replace('_', '-')}" for name, on in flags.items() if str(on) == "True"),
            *(["--"] if keys else []),
            *map(str, keys),
        ]
