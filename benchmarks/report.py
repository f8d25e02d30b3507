"""Turn benchmarks/results into docs/benchmarks.md and a plot beside it: ``python -m benchmarks.report``."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import command
from jaxfair.errors import JaxfairError
from jaxfair.kernels import NAMES

ROOT = Path(__file__).resolve().parents[1]
BASES = {
    "products": ("One Hessian-vector product", "jaxfair: Hessian product, pass kept"),
    "training": ("One step of training", "jaxfair: SGD step"),
    "eigenvalues": ("Largest eigenvalue of five groups, equal error", "jaxfair: random start, residual stop"),
    "density": ("Spectral density", "jaxfair: quadrature"),
    "margins": ("DeepFool distances", "jaxfair: DeepFool"),
}
"""Of each panel of the plot: its title, and the job whose median is 1."""

INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks.report` from the JSON files in `benchmarks/results`, each of them written by
`python -m benchmarks.measure --problem NAME --out FILE` with the `bench` extra installed.

**How it is measured.** Every library gets the same trained network, images and vector, in float32. Their answers are
checked against each other before they are timed, and jobs run in turn (A B C A B C ...), so a disturbance of the
machine meets all of them. Times are medians, with the smallest and largest in brackets. The first round is not counted;
*first run* is the job alone in a new process, compilation included, and *memory* is that process's peak beyond what it
had before the job was set up. *Gradients* is the time in multiples of one gradient of jaxfair over as many images.
GFLOP/s count the convolutions and matrix products that a job needs (forward 1, gradient and training step 3, Hessian
product 6 with its pass kept and 9 without, Gauss-Newton product 4 and 5; an MLP's first layer needs less, so that it
may come out above the peak); *peak* is a 2048 x 2048 float32 matrix product in JAX, measured
in the same run.

**Eigenvalues are compared at equal error.** The truth is a Lanczos run to a residual of 1e-5. Every method gets the
loosest setting of one ladder (3e-1, 1e-1, 3e-2, 1e-2, ...; of steps where a library takes a number of products) at
which its worst group is within 1e-3 of the truth, by one start vector. What it does at its own default setting stands
beside it, from one run. PyHessian and power iteration find the eigenvalue of largest magnitude, which is the largest
one here. matfree multiplies with a Hessian product of jaxfair's making inside its own compiled loop; convolutions in
loops are tens of times slower on XLA's CPU backend, so it is left out of the 32x32 problems there.

**curvlinops' own problems**, with its batches, are among those that can be measured: `mlp-512` is its MLP of 512 images
and `resnet18-w64-512` its ResNet-18 for CIFAR of 512, both whole. `resnet50-w64` is its ResNet-50 of 64 images at 32x32
instead of 224x224, 1/49 of the pixels, and `resnet50-w16` is 1/4 as wide too. `gpt-w768` is nanoGPT with about the
tokens of its batch of 4, in 65 short sequences of a vocabulary of 17, and `gpt` 1/3 as deep and 1/6 as wide too. On a
GPU the whole ones fit; a CPU takes the others.

Where several files were made one after another, the load before one is that of the benchmark before it.

**The images** are scikit-learn's handwritten digits, five groups of two digits each; where a group needs more than
there are, copies shifted by one to three pixels follow.

![Time relative to jaxfair](benchmarks.png)

*Median time relative to jaxfair's job at 1; lines: smallest and largest. Marks to the left of 1 are faster.*
"""


STARTS = """## Start vectors

Products until the largest Hessian eigenvalue is within {target:g} of the true one, a mean over five groups, what a
start takes itself counted in: {title}. Load on a machine changes nothing here, and no stopping rule has a part in it.
Counted by `{command}`.

{table}
A Gauss-Newton eigenvector takes more than it saves, and the vector of another group now this, now that. The vector of a
network nearby saves products, that of one far away wastes them: the directions of a network before its ReLUs are taken
away are not those after. Studies therefore keep their start, by which also no run depends on another's; who follows one
network over its epochs gives `group_curvature(..., starts=)` the vectors of the epoch before.
"""

TRIED = """## Tried and left out

The input gradient of convolutions of stride 2 by explicit padding, which oneDNN then takes: nothing gained with oneDNN,
and slower without (`jaxfair/networks/strided.py` up to commit 07e0874). Several seeds on virtual CPU devices, one
thread each: slower on two cores that are threads of one; `fit(..., devices=)` has it for others.
"""

PRODUCT, GRADIENT, STEP = "Hessian product", "gradient", "training step"
EIGENVALUES = "largest eigenvalues, equal error"
AIMS = {
    PRODUCT: {"resnet18-w16": 1.5, "resnet18-w64": 1.0},
    GRADIENT: {"resnet18-w16": 1.0, "resnet18-w64": 1.0},
    STEP: {"digits": 1.0, "resnet18-w16": 1.0, "resnet18-w64": 1.0},
    EIGENVALUES: {"resnet18-w16": 5.0, "resnet18-w16-1000": 6.0},
}
"""Of rows of the summary, the ratio that was aimed at, by problem."""

COMPARED = {
    PRODUCT: ("products", "jaxfair: Hessian product, pass kept", ("pyhessian: ", "Hessian product")),
    GRADIENT: ("products", "jaxfair: gradient", ("pytorch: ", "gradient")),
    STEP: ("training", "jaxfair: SGD step", ("pytorch: ", "SGD step")),
    EIGENVALUES: ("eigenvalues", "jaxfair: ", ("pyhessian: ", "")),
}
"""Of each row of the summary: its table, how our jobs' names begin, and how those compared begin and what they have."""


class Compared(NamedTuple):
    """Our fastest job of a kind against the fastest of the library that is nearest, in any layout.

    Attributes:
        ours: name of our job, and its median seconds.
        theirs: those of the other library's.
    """

    ours: tuple[str, float]
    theirs: tuple[str, float]

    @property
    def ratio(self) -> float:
        """How many times as long the other takes."""
        return self.theirs[1] / self.ours[1]


def compared(result: dict[str, Any], what: str) -> Compared | None:
    """Return a row of ``COMPARED`` of a result, or None where one of the two was not timed."""
    operation, ours, (library, part) = COMPARED[what]
    found = result.get(operation, {})
    rows = found.get("methods", {}) if operation == "eigenvalues" else found
    timed = {name: row["median"] for name, row in rows.items() if "median" in row}
    own = {name: time for name, time in timed.items() if name.startswith(ours)}
    others = {name: time for name, time in timed.items() if name.startswith(library) and part in name}
    if not own or not others:
        return None
    first, second = (min(each.items(), key=lambda item: item[1]) for each in (own, others))
    return Compared(first, second)


def in_short(results: Sequence[dict[str, Any]], networks: Sequence[dict[str, Any]] = ()) -> str:
    """Return the table of what ``COMPARED`` has; ``networks`` are results of the same problems' other networks."""
    lines = []
    for result in results:
        for what in COMPARED:
            if (found := compared(result, what)) is None:
                continue
            aim = AIMS[what].get(result["problem"]["name"])
            again = [one.ratio for each in _others(result, networks) if (one := compared(each, what))]
            ratios = sorted([found.ratio, *again])
            ratio = f"{found.ratio:.2f}"
            if again:
                ratio += f"; {len(ratios)} networks {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            aimed = f"{aim:g}" + ", missed" * (found.ratio < aim) if aim else ""
            times = [seconds(found.ours[1]), seconds(found.theirs[1]), ratio, aimed]
            lines.append([f"{what}: {result['title']}", *times, found.theirs[0]])
    if not lines:
        return ""
    head = ["job", "jaxfair", "other", "other / jaxfair", "aimed at", "which other"]
    return "\n".join(["**In short.** Below 1 the other library is faster.\n", table(head, lines), _limits(results)])


def _others(result: dict[str, Any], networks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of a problem's other networks, which are named after it."""
    return [each for each in networks if each["problem"]["name"].startswith(f"{result['problem']['name']}@")]


def of_networks(results: Sequence[dict[str, Any]], networks: Sequence[dict[str, Any]]) -> list[str]:
    """Return a part on each problem whose eigenvalues were timed on networks of other seeds as well."""
    head = ["seed", "jaxfair", "products a group", "other", "products a group", "other / jaxfair", "which two"]
    parts, of_problem = [], {}
    for result in results:  # of a problem there may be several, each of other operations
        if result["problem"]["name"] not in of_problem or compared(result, EIGENVALUES):
            of_problem[result["problem"]["name"]] = result
    for result in of_problem.values():
        rows, commands = [], []
        for each in [result, *_others(result, networks)]:
            if found := compared(each, EIGENVALUES):
                cells = [
                    text
                    for name, time in (found.ours, found.theirs)
                    for text in (seconds(time), f"{each['eigenvalues']['methods'][name]['products']:.1f}")
                ]
                which = f"{found.ours[0]}; {found.theirs[0]}"
                rows.append([f"{each['problem'].get('seed', 0)}", *cells, f"{found.ratio:.2f}", which])
                commands += [f"`{each['command']}`"] * (each is not result)  # which its own section has
        if commands:
            title = f"## Eigenvalues of other networks: {result['title']}\n"
            text = "The same problem with networks trained from other seeds, in the order of the commands below.\n"
            parts.append("\n".join([title, text, table(head, rows), ", ".join(commands) + ".\n"]))
    return parts


def _limits(results: Sequence[dict[str, Any]]) -> str:
    """Return where the time goes in jobs of ours that miss their aim, as far as they were traced."""
    missed = [
        (what, result, job)
        for result in results
        for what in COMPARED
        if (found := compared(result, what)) and found.ratio < AIMS[what].get(result["problem"]["name"], 0)
        for job in _traced(result, what)
    ]
    if not missed:
        return ""
    found = [result["profile"][job] for _, result, job in missed]
    kinds = sorted({kind for each in found for kind in each["kinds"]})
    shares = [[f"{each['kinds'].get(kind, 0):.0%}" for kind in kinds] for each in found]
    rows = [[f"{what}: {result['title']}", *row] for (what, result, _), row in zip(missed, shares, strict=True)]
    lines = [
        "**What holds it back** where an aim is missed: where the time of XLA's operations goes, by a trace of ours. "
        "A library's convolutions are oneDNN's on a CPU, as PyTorch's are.\n",
        table(["job", *kinds], rows),
    ]
    for what, result, job in missed:
        if what == EIGENVALUES:
            share = result["profile"][job]["programs"].get("products", 0.0)
            number = result["eigenvalues"]["methods"][job]["products"]
            lines.append(
                f"The eigenvalues of {result['title']} spend {share:.0%} on products. More has to come from fewer "
                f"products than the {number:.1f} that a group takes.\n"
            )
    return "\n".join(lines)


def _traced(result: dict[str, Any], what: str) -> list[str]:
    """Return which of our jobs of a row of ``COMPARED`` were traced."""
    operation, ours, _ = COMPARED[what]
    timed = result[operation]["methods"] if what == EIGENVALUES else result[operation]
    return [job for job in result.get("profile", {}) if job.startswith(ours) and job in timed]


def read(folder: Path) -> list[dict[str, Any]]:
    """Read all results of a folder, in the order of their names.

    Raises:
        JaxfairError: there is none, or one is no result.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            results.append({**result, "title": heading(result)})
        except (ValueError, KeyError, TypeError) as error:
            raise JaxfairError(f"'{path}' is no result of benchmarks.measure; delete it or measure again.") from error
    if not results:
        raise JaxfairError(f"There is no result in '{folder}'; write one with python -m benchmarks.measure --out FILE.")
    return results


def starts(folder: Path) -> list[str]:
    """Return the part on start vectors for each result of ``benchmarks.starts`` in a folder.

    Raises:
        JaxfairError: one is no result.
    """
    parts = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            counts, fields = found["starts"], {name: found[name] for name in ("title", "target", "command")}
        except (ValueError, KeyError, TypeError) as error:
            raise JaxfairError(f"'{path}' is no result of benchmarks.starts; delete it or count again.") from error
        names = dict.fromkeys(name for of_network in counts.values() for name in of_network)
        rows = [[name, *(f"{each[name]:.1f}" if name in each else "-" for each in counts.values())] for name in names]
        parts.append(STARTS.format(**fields, table=table(["start", *counts], rows)))
    return parts


def heading(result: dict[str, Any]) -> str:
    """Return the problem's name for titles and legends."""
    problem, environment = result["problem"], result["environment"]
    where = "" if environment["backend"] == "cpu" else f", {environment['device_kind']}"
    return f"{problem['title']}, {problem['groups']} groups of {problem['per_group']:,}{where}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def seconds(value: float) -> str:
    """Return a time with three digits and a unit."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def span(row: dict[str, Any]) -> str:
    """Return median, smallest and largest time."""
    return f"{seconds(row['median'])} [{seconds(row['min'])}, {seconds(row['max'])}]"


def alone(row: dict[str, Any]) -> list[str]:
    """Return memory beyond the start's and first run of a job in its own process; dashes where not measured."""
    found = row.get("alone")
    if found is None:
        return ["-", "-"]
    where = "device" if "device" in found["peak_mb"] else "host"
    return [f"{found['peak_mb'][where] - found['before_mb'][where]:,.0f} MB", seconds(found["first_seconds"])]


def job_table(rows: dict[str, Any]) -> str:
    """Return the table of products, densities or distances."""
    lines = []
    for name, row in rows.items():
        rate = f"{row['gflops']:.3g} ({row['share_of_peak']:.0%})" if "gflops" in row else "-"
        lines.append([name, span(row), f"{row['gradients']:.2f}", rate, *alone(row)])
    return table(["job", "time", "gradients", "GFLOP/s (of peak)", "memory", "first run"], lines)


def eigenvalue_table(found: dict[str, Any]) -> str:
    """Return the table of eigenvalue methods at equal error, and at their defaults."""
    lines = []
    for name, row in found["methods"].items():
        if row["setting"] is None:
            cells = ["none reaches it", f"{row['error']:.0e}", f"{row['products']:.1f}", "-", "-", "-", "-"]
        else:
            setting = f"{row['setting']:.0f} products" if row["setting_is"] == "products" else f"{row['setting']:.0e}"
            cells = [setting, f"{row['error']:.0e}", f"{row['products']:.1f}", span(row), f"{row['gradients']:.1f}"]
            cells += alone(row)
        lines.append([name, *cells, _default(row)])
    head = ["method", "setting", "worst error", "products a group", "time", "gradients", "memory", "first run"]
    return table([*head, "at its default"], lines)


def _default(row: dict[str, Any]) -> str:
    default = row.get("default")
    if default is None:
        return "-"
    error = "not found" if default["error"] is None else f"error {default['error']:.0e}"
    return f"{default['setting']:g}: {seconds(default['seconds'])}, {error}, {default['products']:.1f} products"


def section(result: dict[str, Any]) -> str:
    """Return one problem's part of the page."""
    environment, problem = result["environment"], result["problem"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["libraries"].items())
    load, device = environment["load_average_before"], environment["torch_device"]
    torch = f"; PyTorch on {device}, {environment['threads']['torch']} threads" if device else ""
    parts = [
        f"## {result['title']}\n",
        f"{environment['processor']}, {environment['host_cores']} cores, {environment['device_kind']}; "
        f"jax {environment['versions']['jax']}, {versions}{torch}. "
        f"Load before: {load[0] if load else float('nan'):.1f}. "
        f"Peak: {result['matmul_gflops']:.0f} GFLOP/s. "
        f"Timed rounds: {result['repeats']}. Convolutions by {NAMES[environment.get('kernels', 'xla')]}. "
        f"Commit {(environment['commit'] or 'unknown')[:12]}.\n",
    ]
    if "command" in result:
        parts.append(f"Measured by `{result['command']}`.\n")
    if environment["missing"]:
        parts.append(f"Not installed or failed, so not timed: {', '.join(environment['missing'])}.\n")
    if "products" in result:
        parts += [f"Passes and products over {problem['batch']} images:\n", job_table(result["products"])]
    if "eigenvalues" in result:
        parts += ["Largest Hessian eigenvalue of every group:\n", eigenvalue_table(result["eigenvalues"])]
    if "report" in result:
        whole = f"{problem['groups'] * problem['per_group']:,}"
        parts += [f"One call of `group_report` on {whole} images, at its defaults:\n", job_table(result["report"])]
    for operation in ("training", "density", "margins"):
        if operation in result:
            parts += [f"{BASES[operation][0]}, {problem['batch']} images:\n", job_table(result[operation])]
    return "\n".join(parts + _extras(result))


def _extras(result: dict[str, Any]) -> list[str]:
    parts = []
    if "scaling" in result:
        small, large = (alone({"alone": result["scaling"][name]})[0] for name in ("1 N", "8 N"))
        bound = f"With kept passes bounded by {result['scaling']['bound_mb']:.0f} MB"
        parts.append(
            f"{bound}, three Lanczos steps take {small} over all images and {large} over eight times as many.\n"
        )
    if "cache" in result:
        first, second = (result["cache"][name]["first_seconds"] for name in ("first process", "second process"))
        text = f"A first run of the eigenvalue job takes {seconds(first)} in a new process"
        parts.append(f"{text}, and {seconds(second)} in a second one that shares JAX's compilation cache.\n")
    for job, found in result.get("profile", {}).items():
        parts.append(_profile(job, found, result["environment"]["host_cores"]))
    return parts


def _profile(job: str, found: dict[str, Any], cores: int) -> str:
    """Return where the time of a traced job goes."""

    def shares(part: str) -> str:
        return ", ".join(f"{name} {share:.0%}" for name, share in found[part].items() if share >= 0.005)

    setting = f" at {found['setting']:g}" if "setting" in found else ""
    programs = f"by program, {shares('programs')}; " if len(found["programs"]) > 1 else ""
    return (
        f"Where the time goes, by a trace of `{job}`{setting}: in {seconds(found['seconds'])} XLA's operations take "
        f"{seconds(found['busy_seconds'])} of processor time on {cores} cores; {programs}by kind, {shares('kinds')}.\n"
    )


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the time of every job relative to ours: a panel an operation, a colour a problem.

    Args:
        results: from ``read``.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    rows = {operation: _rows(results, operation) for operation in BASES}
    jobs = {op: list(dict.fromkeys(name for found in every for name in found)) for op, every in rows.items()}
    panels = [operation for operation in BASES if jobs[operation]]
    titles = list(
        dict.fromkeys(
            result["title"] for op in panels for result, found in zip(results, rows[op], strict=True) if found
        )
    )
    heights = [len(jobs[op]) + 1 for op in panels]
    figure = Figure(figsize=(8, 1.6 + 0.3 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0] if panels else []
    for axis, operation in zip(axes, panels, strict=True):
        for result, found in zip(results, rows[operation], strict=True):
            if not found:
                continue
            index = titles.index(result["title"])
            middle = [row[1] for row in found.values()]
            errors = [[row[1] - row[0] for row in found.values()], [row[2] - row[1] for row in found.values()]]
            offset = 0.5 * (index - (len(titles) - 1) / 2) / len(titles)
            place = [jobs[operation].index(name) + offset for name in found]
            axis.errorbar(middle, place, xerr=errors, fmt="osD^v"[index % 5], ms=5, lw=1, color=f"C{index}")
        axis.set_yticks(range(len(jobs[operation])), jobs[operation], fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(axis="y", color="0.92")
        axis.axvline(1, color="0.3", lw=0.8)
        axis.set_title(BASES[operation][0], fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    if panels:
        axes[-1].set_xlabel("time relative to jaxfair's job at 1 (logarithmic; left is faster)")
        marks = [
            axes[0].plot([], [], "osD^v"[i % 5], ms=5, color=f"C{i}", label=title)[0] for i, title in enumerate(titles)
        ]
        figure.legend(handles=marks, loc="outside upper center", fontsize=8, frameon=False, ncols=2)
    figure.savefig(path, dpi=110)


def _rows(results: Sequence[dict[str, Any]], operation: str) -> list[dict[str, tuple[float, float, float]]]:
    """Return, for each result, smallest, median and largest time of every job relative to the base job's median."""
    relative = []
    for result in results:
        found = result.get(operation, {})
        found = found.get("methods", {}) if operation == "eigenvalues" else found
        base = found.get(BASES[operation][1], {}).get("median")
        # Of the products the Hessian's only; the others are in the table.
        chosen = [name for name in found if operation != "products" or "Hessian product" in name]
        timed = [name for name in chosen if base and "median" in found[name]]
        relative.append({n: tuple(found[n][key] / base for key in ("min", "median", "max")) for n in timed})
    return relative


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the plot; a mistake is answered by one sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of JSON files")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page; the plot lies beside")
    chosen = parser.parse_args(arguments)
    with command.making(chosen.out, ".md"):
        results = read(chosen.results)
        folder = chosen.results / "networks"
        networks = read(folder) if folder.is_dir() else []
        parts = [section(result) for result in results] + of_networks(results, networks)
        parts += starts(chosen.results / "starts")
        page = "\n".join([INTRODUCTION, in_short(results, networks), *parts, TRIED])
        image = chosen.out.with_name("benchmarks.png")
        made = [path.with_name(f".{os.getpid()}-{path.name}") for path in (image, chosen.out)]
        try:  # half of a file is never seen
            plot(results, made[0])
            made[1].write_text(page, encoding="utf-8")
            for path, place in zip(made, (image, chosen.out), strict=True):
                path.replace(place)
        finally:
            for path in made:
                path.unlink(missing_ok=True)
    print(f"{chosen.out} is written, from {len(results)} results.")


if __name__ == "__main__":
    main()
