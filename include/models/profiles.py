"""Profiles: named choices of models, one YAML file each beside this module.

A profile says, for each role, which wrapper plays it, with which parameters and which checkpoints. Nothing heavy is
imported before a role is loaded, so that a step may record what decides its results without a model in memory.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from include.models import checkpoints
from laion_people.errors import UsageError

ROLES = ("detector", "pose", "mesh", "clip")
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Role:
    """One model of a profile.

    wrapper: ``module.Class`` under ``include.models``; checkpoints: parameter of the wrapper -> name of the checkpoint;
    params: what else the wrapper takes, and what decides its results.
    """

    wrapper: str
    checkpoints: dict[str, str]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Profile:
    """A named choice of models; ``note`` is what a user must know about it, for reports and ``status``."""

    name: str
    summary: str
    note: str
    roles: dict[str, Role]

    def fingerprint(self, role: str) -> dict[str, str]:
        """The sha256 of each checkpoint of the role, by name: the ``models`` of a manifest."""
        names = self.roles[role].checkpoints.values()
        return {name: checkpoints.find(name).sha256 for name in names}

    def params(self, role: str) -> dict[str, Any]:
        """What decides the role's results besides the checkpoints, fit for JSON."""
        return {"wrapper": self.roles[role].wrapper, **self.roles[role].params}

    def load(self, role: str, **options: Any) -> Any:
        """Builds the wrapper: a Detector, PoseEstimator, MeshEstimator or Clip. ``options``, such as ``threads``, are
        handed to it and must not decide results."""
        module, _, name = self.roles[role].wrapper.partition(".")
        wrapper = getattr(importlib.import_module(f"include.models.{module}"), name)
        files = {key: checkpoints.path(checkpoint) for key, checkpoint in self.roles[role].checkpoints.items()}
        return wrapper(**files, **self.roles[role].params, **options)


def available() -> list[str]:
    """The names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Reads a profile by name."""
    if name not in available():
        raise UsageError(f"unknown profile {name!r}: choose one of {', '.join(available())}")
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    roles = {role: Role(**content["roles"][role]) for role in ROLES}
    return Profile(name, content["summary"], content["note"], roles)
