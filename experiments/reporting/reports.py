"""A report's folder: how it replaces an earlier one, and its record of the runs that it was made of."""

import itertools
import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.reporting import tables, verdicts
from experiments.reporting.drawing import Drawn
from experiments.reporting.verdicts import Claim
from experiments.running.progress import say
from jaxfair import processes, runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

PAGE, RECORD = "report.html", "runs.json"
CHANGE = "report.json"
"""The numbers of a report that is of no study, but of two models' answers."""
PLACES = ("--out", "--data.path", "--data.images")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write a report into; it takes the place of ``folder`` when all is written.

    An earlier report of runs that are not all in the new one, as after a change of data or settings, or of another
    study in the same folder, is kept beside it as ``NAME-DIGEST``, and a line says so. While one process
    writes, others that come to the same folder wait.

    Args:
        folder: of the report; an earlier one stays whole if anything fails.

    Raises:
        JaxfairError: the folder cannot be written, or holds something else than a report.
    """
    scratch = folder.with_name(f".{folder.name}-making")
    made, old = scratch / "new", scratch / "old"
    try:
        with processes.locked(folder, say):
            if old.exists() and not folder.exists():  # a process was killed between two moves
                old.rename(folder)
            check_new(folder)
            _remove(scratch)
            made.mkdir(parents=True)
            try:
                yield made
                _seal(made)
                _replace(folder, made, old)
            finally:
                _remove(scratch)
    except OSError as error:
        raise JaxfairError(
            f"The report cannot be written to '{folder}': {error.strerror or error}; all runs are kept, "
            "make room or choose another --out and run the same command again."
        ) from error


def check_new(folder: Path) -> None:
    """Raise a JaxfairError if no report can be written to a folder, before hours of work for one."""
    runs.check_place(folder)
    if folder.is_symlink():
        raise JaxfairError(f"'{folder}' is a link, which would be lost; make it a folder, or name a new one as --out.")
    try:
        held = {path.name for path in folder.iterdir()}
    except FileNotFoundError:  # also while another process puts its report in the place of an earlier one
        return
    if held and PAGE not in held:
        raise JaxfairError(
            f"'{folder}' holds something else than a report, which would be lost; name a new folder as --out."
        )


def _replace(folder: Path, made: Path, old: Path) -> None:
    """Put ``made`` in the place of ``folder``, or leave that as it was; an earlier report of other runs is kept."""
    (before, was), (after, now) = _shown(folder), _shown(made)
    mine = _of_others(folder)
    others = not before <= after or bool(before and was != now) or bool(mine)
    if others:
        told = {"runs": sorted(before)} | ({"others": mine} if mine else {})
        old = _place(folder.with_name(f"{folder.name}-{runs.digest(told)}"))
        _remove(old)  # an earlier report of the same runs
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    if others:
        what = "shows other runs" if was == now else f"is of the {was} study"
        what = f"holds what is not its own ({', '.join(mine[:3])})" if mine else what
        say(f"The earlier report in '{folder}' {what} and is kept as '{old}'.")
    elif before and before != after:
        more = len(after - before)
        say(f"The earlier report in '{folder}', of {len(before)} runs, is replaced by one of these and {more} more.")


def _place(wanted: Path) -> Path:
    """Return where an earlier report is kept: ``wanted``, or with a number after it if a reader's files lie there."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    places = itertools.chain([wanted], numbered)
    return next(p for p in places if not p.exists() or (_sealed(p) is not None and not _of_others(p)))


def _sealed(folder: Path) -> dict[str, str] | None:
    """Return the digests of the files that a report was written with; None if it does not say so."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_others(folder: Path) -> list[str]:
    """Return the files in a report's folder that it was not written with, or that were changed since, such as notes."""
    if (known := _sealed(folder)) is None:
        return []
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    own = {name: path for name, path in files.items() if name != RECORD and not path.name.startswith(".")}
    return [name for name, path in own.items() if known.get(name) != runs.file_digest(path)]


def _seal(made: Path) -> None:
    """Add to a report's record a digest of every other file, by which ``check_files`` knows them again."""
    if not (record := made / RECORD).is_file():
        return
    files = sorted(path for path in made.rglob("*") if path.is_file() and path != record)
    digests = {path.relative_to(made).as_posix(): runs.file_digest(path) for path in files}
    runs.write_json(record, json.loads(record.read_text(encoding="utf-8")) | {"files": digests})


def check_files(study: Path, record: Mapping[str, Any]) -> None:
    """Raise a JaxfairError if a file of a study's report is gone, or is not as it was written."""
    for name, digest in record.get("files", {}).items():
        path = study / "report" / name
        if not path.is_file() or runs.file_digest(path) != digest:
            wrong = "was changed" if path.is_file() else "is missing"
            raise JaxfairError(
                f"The report's file '{path}' {wrong}; run the study again, which keeps its runs and writes the report."
            )


def _shown(report: Path) -> tuple[set[str], str]:
    """Return the names of the runs that a report shows, and of which study; nothing if it does not say so."""
    try:
        record = json.loads((report / RECORD).read_text(encoding="utf-8"))
        return set(record["runs"]), str(record.get("study"))
    except (OSError, ValueError, KeyError, TypeError):
        return set(), ""


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def write_record(
    made: Path,
    study: str,
    title: str,
    answer: str,
    warnings: Sequence[str],
    command: Sequence[str],
    shown: Sequence[Run],
    found: Sequence[Claim],
    drawn: Sequence[Drawn],
    meanings: Mapping[str, str] | None = None,
    introduction: str = "",
) -> None:
    """Write the findings, and what the report was made of.

    Args:
        made: the report's folder.
        study: which one, "linearization" or "hardware".
        title: of the report.
        answer: two sentences on who lost more than whom, and further paragraphs.
        warnings: what a reader of the numbers must know, such as which runs are missing.
        command: what the reader types to make it again; places on this machine are left out.
        shown: the runs whose numbers the report shows.
        found: the findings.
        drawn: the figures, in the order of a page.
        meanings: what is to be known of tables, by their names.
        introduction: seeds, splits, data and the reference group.
    """
    tables.write_csv(made / "claims.csv", verdicts.rows(found))
    (made / "claims.md").write_text(verdicts.markdown(found), encoding="utf-8")
    record: dict[str, Any] = {"study": study, "title": title, "answer": answer, "warnings": list(warnings)}
    record |= {"introduction": introduction, "command": without_places(command), "meanings": dict(meanings or {})}
    record["figures"] = [
        {"file": of.file.with_suffix(".png").relative_to(made).as_posix(), "title": of.title, "caption": of.caption}
        for of in drawn
        if of.file is not None
    ]
    record |= {"runs": [run.path.name for run in shown], "made": provenance(with_parents(shown))}
    runs.write_json(made / RECORD, record)


def without_places(command: Sequence[str]) -> list[str]:
    """Return a command without places on this machine: a word for those of options, other paths by their last name."""
    words, hidden = [], False
    for word in command:
        name, given, value = word.partition("=")
        if hidden or (given and name in PLACES):
            words.append("PATH" if hidden else f"{name}=PATH")
        elif given and name.startswith("-"):
            words.append(f"{name}={_last(value)}")
        else:
            words.append(_last(word))
        hidden = word in PLACES
    return words


def typed(command: Sequence[str]) -> str:
    """Return a command as it is typed, without places on this machine; its first word is that of a program."""
    first, *words = without_places(command)
    return " ".join([first, *map(shlex.quote, words)])


def _last(word: str) -> str:
    return Path(word).name if word.startswith(("/", "~")) or Path(word).is_absolute() else word


def read_record(study: Path, of: str | None = None) -> dict[str, Any]:
    """Return the record of a study's last report: title, command, and names of the runs shown, in order.

    Args:
        study: its folder.
        of: which study it must be; any if None.

    Raises:
        JaxfairError: there is no such study, it has no report yet or is another one, or its record is damaged.
    """
    file = study / "report" / RECORD
    if not study.is_dir():
        raise JaxfairError(f"There is no folder '{study}'; give the --out of a study.")
    if (study / "report" / CHANGE).is_file():
        raise JaxfairError(f"'{study}' is of experiments.change, whose page is 'report/{PAGE}'; give a study's --out.")
    if not file.is_file():
        raise JaxfairError(f"'{study}' has no 'report/{RECORD}'; run its study to the end, which writes it.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(found["title"], str) and all(isinstance(name, str) for name in found["runs"])):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise JaxfairError(f"'{file}' is damaged; run the study again, which keeps its runs and writes it.") from error
    if of is not None and found.get("study", of) != of:
        raise JaxfairError(f"'{study}' is a {found['study']} study; give the --out of a {of} study.")
    return found


def open_runs(study: Path, names: Iterable[str]) -> list[Run]:
    """Open finished runs of a study, and compare every file with its digest.

    Raises:
        JaxfairError: a run is gone, unfinished or damaged; the message names the command that makes it again.
    """
    found = [Run(study / "runs" / name, {}) for name in names]
    for run in found:
        if wrong := run.damage():
            try:
                command = _told(read_record(study)["command"], study)
            except (JaxfairError, KeyError, TypeError):
                command = f"the command of the study in '{study}'"
            raise JaxfairError(f"The run '{run.path}' is not whole ({wrong}); it is made again by: {command}.")
    return [runs.read(run.path) for run in found]


def _told(command: Sequence[str], study: Path) -> str:
    """Return a record's command as it is typed for the study's folder, wherever that lay when the record was made."""
    first, *words = command
    out = shlex.quote(str(study))
    if not any(word.partition("=")[0] == "--out" for word in words):
        words += ["--out", "PATH"]
    of = {"--out=PATH": f"--out={out}"}
    told = [
        out if before == "--out" else of.get(word, shlex.quote(word))
        for before, word in zip(["", *words[:-1]], words, strict=True)
    ]
    return " ".join([first, *told])


def with_parents(shown: Iterable[Run]) -> list[Run]:
    """Return runs and the runs that they were made of, as far as these lie beside them."""
    found = {run.path: run for run in shown}
    waiting = list(found.values())
    while waiting:
        run = waiting.pop()
        for digest in run.config.get("parents", {}).values():
            for path in run.path.parent.glob(f"*-{digest}"):
                if path not in found:
                    found[path] = runs.read(path)
                    waiting.append(found[path])
    return list(found.values())


def provenance(found: Sequence[Run]) -> dict[str, Any]:
    """Say how runs were made: commits, devices, kernels, precision, versions, when, and seconds of all together.

    The digest is that of all runs' configurations, with the fingerprints of their data: the same command on the same
    data makes runs of the same one, whatever made them.
    """
    known = [run.json("environment.json") for run in found]
    if not known:
        return {}
    return {
        "runs": len(known),
        "digest": runs.digest({"runs": sorted(run.digest for run in found)}),
        "seconds": round(sum(e["seconds"] / e["seconds_shared_by_runs"] for e in known), 2),
        "commits": sorted({str(e["commit"]) + ("+changes" if e["uncommitted_changes"] else "") for e in known}),
        "devices": sorted({_device(e) for e in known}),
        "kernels of convolutions": sorted({e["kernels"] for e in known if "kernels" in e}),  # older runs do not say
        "precision of matrix products": sorted({e["default_matmul_precision"] for e in known}),
        "versions": {name: " and ".join(sorted(of)) for name, of in _versions(known).items()},
        "finished": max(e["finished"] for e in known),
    }


def _device(environment: Mapping[str, Any]) -> str:
    """Say what a run computed on; by how many threads only where a CPU's are not as many as its cores."""
    backend, kind, count = (environment[name] for name in ("backend", "device_kind", "device_count"))
    cores, threads = environment["host_cores"], environment.get("threads")
    few = backend == "cpu" and threads not in (None, cores)
    return f"{backend}: {kind} x {count}, {cores} cores" + few * f", threads: {threads}"


def _versions(environments: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return every version of each package, and of Python, by which some run was made."""
    found: dict[str, set[str]] = {}
    for environment in environments:
        for name, version in {**environment["versions"], "python": environment["python"]}.items():
            found.setdefault(name, set()).add(version or "none")
    return found
