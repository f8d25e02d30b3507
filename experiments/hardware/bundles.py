"""Bundles: the runs of a hardware study as one file, and whether the runs of several machines may be compared.

A study's folder has ``profiles.json`` and, for each of these, ``profile-NAME.json``, which lists its runs. Runs are
compared only if they are of the same data, network and training, and began with the same bits in the same order.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from experiments.hardware.runs import Declared
from experiments.reporting import files, reports
from experiments.running.progress import say
from jaxfair import processes, runs
from jaxfair.errors import JaxfairError
from jaxfair.hardware import Profile
from jaxfair.runs import Run

DECISIVE = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Packages whose version may change what is computed."""


PROFILES = "profiles.json"
RUNS = ("trained", "analysed", "steps", "sampled")


class Member(NamedTuple):
    """The runs of one training on one profile, one for each seed.

    Attributes:
        control, mitigation, budget: which training, see ``hardware.runs.Task``.
        trained, analysed, steps, sampled: finished runs; the last two may be empty.
    """

    control: str
    mitigation: str
    budget: int | None
    trained: list[Run]
    analysed: list[Run]
    steps: list[Run]
    sampled: list[Run]

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [run for key in RUNS for run in getattr(self, key)]


class Bundle(NamedTuple):
    """All runs of one profile, made on one machine.

    Attributes:
        folder: of the study.
        profile, label, kind: of the profile.
        reference: whether it was its study's reference, with controls.
        members: its trainings.
    """

    folder: Path
    profile: str
    label: str
    kind: str
    reference: bool
    members: list[Member]


def note(study: Path, profile: Profile, declared: Sequence[Declared], *, reference: bool) -> None:
    """Write which runs of a study are those of a profile."""
    members = [
        {
            "control": found.task.control,
            "mitigation": found.task.train.mitigation.method,
            "budget": found.task.budget,
            **{key: [run.path.name for run in getattr(found, key)] for key in RUNS},
        }
        for found in declared
    ]
    about = {"profile": profile.name, "label": profile.label, "kind": profile.kind, "reference": reference}
    runs.write_json(study / f"profile-{profile.name}.json", {**about, "members": members})


def read(study: Path, profiles: Iterable[str] | None = None) -> list[Bundle]:
    """Read a study's profiles, the reference first; every run is checked against its digests.

    Args:
        study: its folder.
        profiles: those wanted, in their order; by default all that are there.

    Raises:
        JaxfairError: the folder has none, or a run is missing or damaged.
    """
    names = profiles if profiles is not None else _listed(Path(study))
    found = []
    for name in names:
        try:
            stored = json.loads((Path(study) / f"profile-{name}.json").read_text())
            profile, label, kind = (str(stored[key]) for key in ("profile", "label", "kind"))
            listed = [
                (
                    [made[key] for key in ("control", "mitigation", "budget")],
                    {key: [*made.get(key, ())] for key in RUNS},
                )
                for made in stored["members"]
            ]
            reference = bool(stored["reference"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JaxfairError(f"'{study}' has no finished runs of profile '{name}'; run the study first.") from error
        members = [
            Member(*which, **{key: reports.open_runs(study, names) for key, names in of.items()})
            for which, of in listed
        ]
        found.append(Bundle(study, profile, label, kind, reference, members))
    if not found:
        raise JaxfairError(f"'{study}' holds no hardware study; give the folder that experiments.hardware wrote.")
    return sorted(found, key=lambda bundle: not bundle.reference)


def listed(study: Path, profiles: Sequence[str]) -> None:
    """Write which profiles a study is of, in their order; others that it had before do not count."""
    study.mkdir(parents=True, exist_ok=True)
    runs.write_json(study / PROFILES, list(profiles))


def _listed(study: Path) -> list[str]:
    """Return the profiles that a study says it has; none where it is no hardware study, or its list is damaged."""
    try:
        names = json.loads((study / PROFILES).read_text())
        return [*dict.fromkeys(name for name in names if isinstance(name, str))]
    except (OSError, ValueError, TypeError):
        return []


def check(bundles: Sequence[Bundle], *, allow_versions: bool = False) -> list[str]:
    """Compare what the trainings of several profiles began with.

    Returns:
        A sentence for each package whose versions differ.

    Raises:
        JaxfairError: data, network, training, initial parameters or the order of the data differ, or versions do and
            that is not allowed; the message names what differs.
    """
    first = bundles[0]
    for other in bundles[1:]:
        theirs = dict(_start(other))
        for name, expected in _start(first):
            if (found := theirs.get(name, expected)) != expected:
                raise JaxfairError(
                    f"'{other.folder}' ({other.profile}) differs from '{first.folder}' ({first.profile}) in {name}: "
                    f"{_short(found)} instead of {_short(expected)}; only runs that began alike can be compared."
                )
    said = []
    for name in DECISIVE:
        found = {_environment(bundle)["versions"][name] or "none" for bundle in bundles}
        said += [f"Versions of {name} differ: {', '.join(sorted(found))}."] if len(found) > 1 else []
    if said and not allow_versions:
        raise JaxfairError(f"{' '.join(said)} Allow that by --allow-versions, and the report says it.")
    return said


def _start(bundle: Bundle) -> Iterator[tuple[str, Any]]:
    """Yield by name what the plain training of a profile began with, leaving out what a profile may change."""
    (plain,) = [m for m in bundle.members if (m.control, m.mitigation, m.budget) == ("none", "none", None)]
    config = plain.trained[0].config
    yield "the data", config["data"]["fingerprint"]
    yield "the network", {key: value for key, value in config["model"].items() if key != "arithmetic"}
    yield "the seeds", [run.config["seed"] for run in plain.trained]
    starts = [run.json("start.json") for run in plain.trained]
    yield "the initial parameters", [start["initial"] for start in starts]
    yield "the order of the data", [start["order"] for start in starts]
    for member in bundle.members:
        if member.control == "none":  # those that only one of two studies has are not compared
            which = f" with {member.mitigation}" if member.mitigation != "none" else ""
            which += f" to {member.budget} ReLUs" if member.budget is not None else ""
            yield f"the training{which}", member.trained[0].config["train"]
            yield f"the analysis{which}", member.analysed[0].config["analysis"]


def _environment(bundle: Bundle) -> dict[str, Any]:
    return bundle.members[0].trained[0].json("environment.json")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def pack(study: Path, file: Path) -> None:
    """Write a study's finished runs into one tar archive.

    Raises:
        JaxfairError: the file has another name than a tar archive's, is there and no packed study, or cannot be
            written; the study has no finished runs.
    """
    if not file.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        raise JaxfairError(f"A study is packed as NAME.tar or NAME.tar.gz, not '{file.name}'; give such a name.")
    files.check_place(file)
    if file.exists() and not _is_packed(file):
        raise JaxfairError(f"'{file}' is there and no packed study; choose another name, or move it away.")
    bundles = read(study)
    folders = sorted({run.path for bundle in bundles for member in bundle.members for run in member.runs})
    mode = "w:gz" if file.name.lower().endswith("gz") else "w"
    made = file.with_name(f".{file.name}")
    try:
        with processes.locked(file, say), ExitStack() as after:
            after.callback(made.unlink, missing_ok=True)  # half an archive
            with tarfile.open(made, mode) as archive:
                for name in (PROFILES, *(f"profile-{bundle.profile}.json" for bundle in bundles)):
                    archive.add(study / name, name)
                for folder in folders:
                    archive.add(folder, f"runs/{folder.name}")
            made.replace(file)
    except OSError as error:
        raise JaxfairError(f"'{file}' cannot be written: {error.strerror or error}; choose another place.") from error
    print(f"Packed: {file}, {len(folders)} runs of {len(bundles)} profiles")


def _is_packed(file: Path) -> bool:
    """Return whether a file is an archive that begins as ``pack`` writes one."""
    try:
        with tarfile.open(file) as archive:
            first = archive.next()
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError):
        return False
    return first is not None and first.name == PROFILES


def check_apart(studies: Mapping[Path, Sequence[Bundle]]) -> None:
    """Refuse studies of which two hold the very same runs, such as a folder and what was packed of it.

    Runs of two machines may end in the same bits, but not at one time: what ``DONE`` says of all files tells.

    Raises:
        JaxfairError: two do.
    """
    seen: dict[frozenset[str], Path] = {}
    for study, found in studies.items():
        every = (run for bundle in found for member in bundle.members for run in member.runs)
        made = frozenset((run.path / "DONE").read_text() for run in every)
        if made in seen:
            raise JaxfairError(f"'{seen[made]}' and '{study}' hold the same runs; give each study once.")
        seen[made] = study


def unpack(file: Path, folder: Path) -> Path:
    """Extract a packed study into ``folder`` and return it."""
    try:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
            if (stream := archive.fileobj) is not None:
                stream.seek(archive.offset)
                if not stream.read(1):  # cut between two of its files, which tarfile takes for the end
                    raise EOFError
    except FileNotFoundError as error:
        raise JaxfairError(f"There is no '{file}'; give a study's folder, or a file that 'pack' wrote.") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        why = getattr(error, "strerror", None) or "it is no tar archive, or a damaged one"
        raise JaxfairError(f"'{file}' is no study's folder and cannot be unpacked: {why}.") from error
    return folder
