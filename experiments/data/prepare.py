"""UTKFace as a TFDS data set."""

from experiments.data.settings import Prepare
from experiments.running import datasets
from experiments.running.progress import Progress
from jaxfair import runs
from jaxfair.data import sources, tfds
from jaxfair.errors import JaxfairError


def prepare(config: Prepare) -> None:
    """Write UTKFace as a TFDS data set."""
    if config.name != "utkface":
        raise JaxfairError(f"'{config.name}' cannot be prepared; only utkface can, other sets TFDS prepares itself.")
    out = config.out or sources.default_data_dir() / "tfds"
    runs.check_place(out)
    with Progress() as progress:
        folder = tfds.prepare(config.path, out, on_progress=datasets.shown(progress, "prepare images"))
    print(f"Prepared: {folder}")
