"""The report of a hardware study: one HTML file that opens offline, the figures as files, the numbers as CSV."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from experiments.hardware import bundles, claims, differences, figures, page
from experiments.hardware import results as hardware_results
from experiments.hardware import tables as numbers
from experiments.hardware.figures import Segment
from experiments.hardware.results import Hardware
from experiments.reporting import reports, tables
from experiments.reporting.verdicts import Missing
from experiments.running import datasets
from experiments.running.records import load_network
from experiments.running.settings import DataConfig
from jaxfair import groups
from jaxfair.data.dataset import normalize
from jaxfair.errors import JaxfairError
from jaxfair.networks.network import Network
from jaxfair.runs import Run
from jaxfair.sensitivity import losses_on_segment

POINTS = np.linspace(0, 1, 13)  # beyond them a batch norm's variance may be negative


def write(
    studies: Sequence[Path],
    folder: Path,
    command: Sequence[str],
    *,
    allow_versions: bool = False,
    data: DataConfig | None = None,
    title: str | None = None,
    reference: str | None = None,
    missing: Sequence[str] = (),
) -> Hardware:
    """Write ``report.html``, figures and tables into ``folder``, replacing an earlier report, and print a summary.

    Args:
        studies: their folders; the first has the reference and its controls.
        folder: of the report; what it held is lost.
        command: what the reader types to make it again.
        allow_versions: whether runs of different package versions are compared.
        data: of the study; None looks for the data where the reference's runs found them.
        title: heading; by default it is made of what the data are called.
        reference: group that the others are compared with; by default that with the most training images.
        missing: sentences on what is not shown, since its runs failed.

    Raises:
        JaxfairError: the studies cannot be compared, or the folder cannot be written; an earlier report is then whole.
    """
    read = {study: bundles.read(study) for study in studies}
    bundles.check_apart(read)
    found = [bundle for of in read.values() for bundle in of]
    said = [*missing, *bundles.check(found, allow_versions=allow_versions)]
    hardware = hardware_results.collect(found, said, reference)
    runs = [run for bundle in found for member in bundle.members for run in member.runs]
    title = title or page.title(hardware)
    publish(hardware, folder, command, runs, data, title)
    print_summary(hardware, title)
    print(f"\nReport: {folder / reports.PAGE}")
    return hardware


def publish(
    hardware: Hardware,
    folder: Path,
    command: Sequence[str],
    runs: Sequence[Run] = (),
    data: DataConfig | None = None,
    title: str = page.TITLE,
) -> None:
    """Write the report of results that came from ``runs``; see ``write``."""
    with reports.replacing(folder) as made:
        drawn = figures.write(hardware, made, partial(segment, hardware, data))
        found = claims.claims(hardware)
        rows = {
            "differences": differences.rows(hardware),
            "profiles": numbers.profile_rows(hardware),
            "trainings": numbers.training_rows(hardware),
            "groups": numbers.group_rows(hardware),
            "spread": numbers.spread_rows(hardware),
        }
        tables.write_all(made, rows)
        answer = differences.whole_answer(hardware)
        said = title, answer, page.warnings(hardware), command
        of_runs = runs, found, drawn, page.OF_TABLES, page.introduction(hardware)
        reports.write_record(made, "hardware", *said, *of_runs)
        text = page.page(hardware, drawn, rows, found, title, command)
        (made / reports.PAGE).write_text(text, encoding="utf-8")


def segment(hardware: Hardware, data: DataConfig | None = None) -> Segment:
    """Compute groups' test losses between the reference's and another profile's parameters, seed 0.

    The profile is the one with the largest xi. Both networks are evaluated on the reference's arithmetic.

    Args:
        hardware: the results.
        data: of the study; None looks for the data where the reference's runs found them.

    Raises:
        Missing: there is no other profile, or the data are not to be found or have changed.
    """
    plain = hardware.comparisons[0]
    if not plain.profiles:
        raise Missing("there is no profile beside the reference")
    if not plain.reference.trained:
        raise Missing("the networks are not at hand")
    apart = [numbers.pair_xi(plain, [series])[0] for series in plain.profiles]
    if not np.isfinite(apart).any():
        raise Missing("a loss is not finite on every other profile")
    other = plain.profiles[int(np.nanargmax(apart))]
    run = plain.reference.trained[0]
    try:
        prepared = datasets.prepare(datasets.of_run(run) if data is None else data)
    except JaxfairError as error:
        raise Missing("the data cannot be loaded again") from error  # whose text names places on this machine
    test = prepared.test
    if test.fingerprint() != run.config["data"]["fingerprint"]["test"]:
        raise Missing("the data that are found now are others")
    start, end = (load_network(series.trained[0]) for series in (plain.reference, other))
    end = jax.tree.unflatten(jax.tree.structure(start), jax.tree.leaves(end))  # the module differs by its arithmetic
    weights = groups.group_weights(test.group, len(test.group_names))
    images = np.asarray(test.images[np.arange(len(test))])
    logits = Partial(_logits, test.mean, test.std)
    return Segment(POINTS, losses_on_segment(logits, start, end, images, test.label, weights, POINTS), other.label)


def _logits(mean: Array, std: Array, network: Network, images: Array) -> Array:
    return network(normalize(images, mean, std))


def print_summary(hardware: Hardware, title: str = page.TITLE) -> None:
    """Print one row a profile and control of the plain training, the warnings, and who loses more than whom."""
    plain = hardware.comparisons[0]
    seeds = len(plain.reference.accuracy)
    caption = f"{seeds} seed{'s' * (seeds > 1)}. {page.intervals_sentence(seeds)} Losses are of test images."
    table = page.profile_table(numbers.profile_rows(hardware), plain.title)
    tables.show(table, title, caption, page.warnings(hardware))
    print(f"\n{differences.whole_answer(hardware)}")
