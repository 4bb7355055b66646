"""Profiles: named choices of models, one YAML file each, beside this module or in a user's own place.

A profile gives each role a wrapper, with parameters and checkpoints. Nothing heavy is imported before a role is loaded:
a step can record what decides its results without a model in memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import math
import re
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from include.models import fetching
from include.models.checkpoints import Cache
from include.models.errors import ModelUsageError

ROLES = ("detector", "pose", "mesh", "clip")  # every profile has these; a captioner is optional
MOST_BYTES, MOST_DEPTH, MOST_ALIASES = 100_000, 20, 20  # of a file: aliases can stand for lists of aliases
MOST_TEXT = 300  # characters of a text about a threshold
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Role:
    """One model of a profile.

    wrapper: ``module.Class`` under ``include.models``; checkpoints: parameter of the wrapper -> name of the checkpoint;
    params: its other parameters, which decide results; a model that runs on torch has ``precision`` among them, and
    also gets a device; options: parameters that don't decide results.
    """

    wrapper: str
    checkpoints: dict[str, str]
    params: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.wrapper, str):
            raise TypeError("a wrapper should be the name of a module and a class")
        for name in ("checkpoints", "params", "options"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} of {self.wrapper} should be a mapping")
        if not all(isinstance(name, str) for pair in self.checkpoints.items() for name in pair):
            raise TypeError(f"checkpoints of {self.wrapper} should be names")
        json.dumps([self.params, self.options])  # manifests are JSON; raises TypeError
        if (precision := self.params.get("precision", "auto")) not in PRECISIONS:
            raise TypeError(f"precision of {self.wrapper} is {precision!r}: should be one of {', '.join(PRECISIONS)}")
        if not isinstance(prompt := self.params.get("prompt", "-"), str) or not prompt.strip():
            raise TypeError(f"prompt of {self.wrapper} is {prompt!r}: should be what the model is told, in words")
        if "{text}" not in str(question := self.params.get("question", "{text}")):
            raise TypeError(f"question of {self.wrapper} is {question!r}: should ask about {{text}}, and yes or no")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The similarity above which a caption is taken to fit, for the CLIP of one profile, and how it was found.

    value: the threshold; interval: its 95 % interval, two numbers; precision: of the people kept, at least this share
    have a caption that fits (docs/models.md has the definition); basis: why this precision; clip_model: the CLIP's
    name; models: its checkpoints and their sha256; crop_padding: of the crops; partitions, images, people, pairs: what
    was compared (pairs: of a person and another's caption); date: ISO 8601; versions: of packages, by name.
    """

    value: float
    interval: list[float]
    precision: float
    basis: str
    clip_model: str
    models: dict[str, str]
    crop_padding: float
    partitions: list[str]
    images: int
    people: int
    pairs: int
    date: str
    versions: dict[str, str]

    def __post_init__(self) -> None:
        low, high = self.interval
        if any(type(n) not in (int, float) for n in (low, high, self.value, self.precision, self.crop_padding)):
            raise TypeError("value, interval, precision and crop_padding of a threshold should be numbers")
        if not (-1 <= low <= self.value <= high <= 1 and 0 < self.precision <= 1 and 0 <= self.crop_padding < math.inf):
            raise ValueError(
                "a threshold lies within its interval, that between -1 and 1, its precision between 0 and 1"
            )
        if not all(type(n) is int and 0 < n < 1 << 63 for n in (self.images, self.people, self.pairs)):
            raise TypeError("images, people and pairs of a threshold should be counts")
        named = [text for pair in (*self.models.items(), *self.versions.items()) for text in pair]
        if not isinstance(self.partitions, list):
            raise TypeError("partitions of a threshold should be a list")
        texts = [self.basis, self.clip_model, self.date, *named, *self.partitions]
        if not all(isinstance(text, str) and text.isprintable() and len(text) <= MOST_TEXT for text in texts):
            raise TypeError("a threshold's names should be texts of a line")
        date.fromisoformat(self.date)

    @property
    def provenance(self) -> str:
        """How it was found, in a line."""
        low, high = self.interval
        listed = ", ".join(self.partitions[:3]) + (" and others" if len(self.partitions) > 3 else "")
        return (
            f"calibrated for {self.clip_model} to a precision of at least {self.precision:.4g} ({self.basis}), "
            f"95 % interval {low:.4g} to {high:.4g}, by {self.people:,} people in {self.images:,} images of {listed}, "
            f"{self.date}"
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A named choice of models on a device.

    note: what a user must know about it, for reports and ``status``; threshold: of Subset A, where one was calibrated
    for its CLIP; threads: of each model on the CPU, 0: one for each
    core that the process may use; cache: of weights; fetches: whether missing weights are fetched when needed; if not,
    an error says how to get them.
    """

    name: str
    summary: str
    note: str
    roles: dict[str, Role]
    threshold: Threshold | None = None
    device: str = "auto"
    threads: int = 0
    cache: Cache = field(default_factory=Cache)
    fetches: bool = False

    def role(self, name: str) -> Role:
        """One of its models. If the profile lacks it, raises ModelUsageError with the profiles that have it."""
        if name not in self.roles:
            having = [profile for profile in available() if name in load_profile(profile).roles]
            raise ModelUsageError("bad-profile", f"profile {self.name} has no {name}: choose {' or '.join(having)}")
        return self.roles[name]

    def fingerprint(self, role: str) -> dict[str, str]:
        """The sha256 of each checkpoint of the role, by name: the ``models`` of a manifest.

        Raises ModelError for a checkpoint that must be fetched before its sha256 is known.
        """
        names = list(self.role(role).checkpoints.values())
        for name in names:
            if self.fetches and not self.cache.known(name):
                fetching.fetch(name, self.cache)
        return {name: self.cache.sha256(name) for name in names}

    def checkpoints(self) -> list[str]:
        """The names of all its checkpoints."""
        return list(dict.fromkeys(name for role in self.roles.values() for name in role.checkpoints.values()))

    def params(self, role: str) -> dict[str, Any]:
        """The parameters that decide the role's results, beside the checkpoints; fit for JSON."""
        return {"wrapper": self.role(role).wrapper, **self.role(role).params}

    def model_name(self, role: str) -> str:
        """A name of the role's model, fit for a folder: of its checkpoints, or of its wrapper if there are none."""
        chosen = self.role(role)
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "+".join(chosen.checkpoints.values()) or chosen.wrapper)

    def load(self, role: str, **options: Any) -> Any:
        """Builds the wrapper: a Detector, PoseEstimator, MeshEstimator, Clip or Captioner. ``options``, such as
        ``threads``, are passed to it and must not decide results."""
        chosen = self.role(role)
        if "precision" in chosen.params:
            options = {"device": self.device} | options
        wrapper = self._wrapper(chosen)
        signature = inspect.signature(wrapper)
        if self.threads and "threads" in signature.parameters:
            options = {"threads": self.threads} | options
        given = chosen.params | chosen.options | options
        try:
            signature.bind(**chosen.checkpoints, **given)
        except TypeError as error:
            raise ModelUsageError("bad-profile", f"profile {self.name}: {chosen.wrapper}: {error}") from None
        get = partial(fetching.fetch, cache=self.cache) if self.fetches else self.cache.path
        return wrapper(**{key: get(checkpoint) for key, checkpoint in chosen.checkpoints.items()}, **given)

    def _wrapper(self, role: Role) -> Any:
        name, _, of_class = role.wrapper.partition(".")
        if importlib.util.find_spec(f"include.models.{name}"):
            module = importlib.import_module(f"include.models.{name}")
            if hasattr(module, of_class):
                return getattr(module, of_class)
        raise ModelUsageError("bad-profile", f"profile {self.name}: include/models has no wrapper {role.wrapper}")


def available() -> list[str]:
    """The names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str, precision: str = "auto", **options: Any) -> Profile:
    """Reads a profile by name, or from the path of a file ``.yaml``.

    A ``precision`` other than auto replaces that of every role that runs on torch. ``options`` are those of a
    `Profile`: device, threads, cache, fetches. Raises ModelUsageError if the profile doesn't exist or is incomplete.
    """
    if not name.endswith(".yaml") and name not in available():
        known = ", ".join(available())
        raise ModelUsageError("bad-profile", f"unknown profile {name!r}: choose one of {known}, or the path of a .yaml")
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    try:
        content = _read(file)
        roles = {role: Role(**values) for role, values in content["roles"].items()}
        threshold = Threshold(**content["threshold"]) if "threshold" in content else None
        profile = Profile(file.stem, content["summary"], content["note"], roles, threshold, **options)
    except OSError as error:
        raise ModelUsageError("bad-profile", f"profile {file}: {error.strerror}") from None
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = "".join(c for c in str(error).partition("\n")[0][:200] if c.isprintable())
        example = FOLDER / "packaged.yaml"
        raise ModelUsageError("bad-profile", f"profile {file}: {reason}; {example} shows what one looks like") from None
    if lacking := [role for role in ROLES if role not in roles]:
        raise ModelUsageError("bad-profile", f"profile {file} has no {lacking[0]}: it needs {', '.join(ROLES)}")
    if threshold and set(threshold.models) != set(roles["clip"].checkpoints.values()):
        raise ModelUsageError(
            "bad-profile",
            f"profile {file}: its threshold is that of another CLIP, {threshold.clip_model}: "
            "run `bin/laion-people calibrate`, or take it out",
        )
    if precision != "auto":
        for role in roles.values():
            role.params.update({"precision": precision} if "precision" in role.params else {})
    return profile


def _read(file: Path) -> Any:
    """The content of a YAML file. Raises ValueError if it is, or unfolds to, more than a profile needs."""
    with file.open("rb") as stream:
        text = stream.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    depth = aliases = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MOST_DEPTH or aliases > MOST_ALIASES:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels, or has more than {MOST_ALIASES} aliases")
    return yaml.safe_load(text)
