"""Where the profiles of a study are made: in its own folder, or on kinds of machine with a folder each.

A kind of machine is a word of ``Study.nodes``, such as ``t4=gpu,gres=gpu:t4:1``: its name, the profile that it makes,
and what a cluster needs to know to find it. Each is a study of one profile by itself, with controls only for the first,
so that its runs can be packed, merged and looked at like any other's.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.hardware.settings import Study
from jaxfair import hardware
from jaxfair.errors import JaxfairError
from jaxfair.hardware import Profile

WISHES = ("gres", "constraint", "partition", "account")
"""What may be said of a kind of machine, as of all runs (``Execution``)."""


class Place(NamedTuple):
    """Where one profile is made.

    Attributes:
        name: of the kind of machine, or of the profile.
        profile: what its runs compute by.
        study: of which the runs there are.
        options: what a process there is told beside the options of the whole study, which come first.
    """

    name: str
    profile: Profile
    study: Study
    options: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Its study's."""
        return self.study.out


def places(study: Study) -> list[Place]:
    """Return where the profiles are made, that of the reference first.

    Raises:
        JaxfairError: a profile is unknown, or a kind of machine is not described as it has to be.
    """
    if not study.nodes:
        return [Place(name, hardware.named(name), study) for name in study.profiles]
    found = [_place(study, word, first=not number) for number, word in enumerate(study.nodes)]
    names = [place.name for place in found]
    if len(set(names)) < len(names):
        raise JaxfairError(f"The kinds of machine are called {', '.join(names)}; give each a name of its own.")
    return found


def _place(study: Study, word: str, *, first: bool) -> Place:
    """Return what one word of ``--nodes`` says."""
    name, given, rest = word.partition("=")
    profile, *pairs = rest.split(",")
    wishes = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) and name not in ("runs", "report")
    if not (plain and given and profile and len(wishes) == len(pairs) and set(wishes) <= set(WISHES)):
        raise JaxfairError(
            f"'{word}' is no kind of machine; write NAME=PROFILE, and after it ,gres= ,constraint= ,partition= or "
            ",account= as the cluster has them, such as t4=gpu,gres=gpu:t4:1."
        )
    if wishes and study.execution.executor != "slurm":
        raise JaxfairError(
            f"'{word}' says {', '.join(wishes)}, which only --executor slurm heeds; add that, or leave it."
        )
    out = study.out / name
    alone = dataclasses.replace(study, nodes=(), profiles=(profile,), out=out)
    options = ["--nodes", "--profiles", profile, "--out", str(out)]
    options += [word for wish, value in wishes.items() for word in (f"--{wish}", value)]
    if not first:
        alone = dataclasses.replace(alone, ulps=0, controls=())
        options += ["--ulps", "0", "--controls"]
    return Place(name, hardware.named(profile), alone, options)
