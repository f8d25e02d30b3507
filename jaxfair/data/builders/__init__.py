"""Preparing data sets by TensorFlow Datasets (tfds), for its tools and for ``jaxfair.data.layouts.prepared``."""

import contextlib
import http.client
import importlib.util
import json
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxfair.data.files import identity, open_files
from jaxfair.data.layouts import utkface as layout  # the package of the builder takes the name here
from jaxfair.data.layouts.prepared import find, first_line
from jaxfair.errors import JaxfairError

TIMEOUT = 3.0  # seconds in which a server must answer


def prepare(source: Path, data_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of UTKFace, prepared from the user's copy as array_record files; no network is needed.

    A folder prepared from the same source before is returned as it is. A preparation that fails leaves none.

    Args:
        source: a folder or archive with the aligned and cropped images.
        data_dir: receives ``utkface/version``.
        on_progress: called with the number of images done and that of all.

    Raises:
        JaxfairError: the source is not UTKFace, or has images whose names do not fit; the folder cannot be written, its
            disk is too small, or it holds UTKFace prepared from another source; the images take more than 1 GB and
            TensorFlow is not installed.
    """
    origin = {"source": str(source.absolute()), "identity": identity(source)}
    if (folder := find("utkface", [data_dir])) is not None:
        return _same_origin(folder, origin)
    with open_files(source) as files:
        index = layout.read(files)
        if index.rejected:
            (name, reason), count = index.rejected[0], len(index.rejected)
            raise JaxfairError(f"{count} files of {source} are not UTKFace's: '{name}' {reason}; remove them.")
        needed = _size(source) + 1000 * len(index.names)  # what is known of an image, and how archives pack it
        _check_memory(source, needed)
        check_room(data_dir, needed)
        from jaxfair.data.builders.utkface.utkface_dataset_builder import Builder

        try:
            with _no_bars(), tempfile.TemporaryDirectory() as downloads:
                builder: Any = Builder(data_dir=str(data_dir))
                builder.index, builder.on_progress = index, on_progress
                builder.info.metadata.update(origin)
                return _run(builder, downloads)
        except (OSError, RuntimeError) as error:  # the latter from array_record, where a file cannot be written
            raise JaxfairError(f"{data_dir} cannot be written ({first_line(error)}); make room.") from error


def prepare_stock(name: str, data_dir: Path, *, hint: str = "") -> Path:
    """Return the folder of a set that tfds knows, downloaded and prepared there if it is not yet.

    What would fail is found out before the work begins, within seconds.

    Args:
        name: as tfds calls the set: ``cifar10``.
        data_dir: receives the download and ``name/version``.
        hint: what else the user can do, for messages: ``put cifar-10-python.tar.gz into data/``.

    Raises:
        JaxfairError: TensorFlow is not installed, tfds knows no such set, the folder cannot be written, its disk is too
            small, no server answers, or the preparation fails.
    """
    if (folder := find(name, [data_dir])) is not None:
        return folder
    instead = f", or {hint}" if hint else ""
    _check_stock(name, data_dir, instead)
    try:
        import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]
        import tensorflow_datasets as tfds

        with contextlib.suppress(RuntimeError):  # already running, with whatever devices it was given
            tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
        return _run(tfds.builder(name, data_dir=str(data_dir)))
    except JaxfairError:
        raise
    except Exception as error:  # a builder of tfds, a download or TensorFlow may raise anything
        message = f"tfds could not prepare '{name}' in {data_dir} ({first_line(error)}); try again{instead}."
        raise JaxfairError(message) from error


def check_room(data_dir: Path, needed: int) -> None:
    """Make a folder if need be, and see that files can be written there.

    Args:
        data_dir: the folder.
        needed: bytes that must be free on its disk.

    Raises:
        JaxfairError: the folder cannot be written, or its disk has too little room.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):  # permissions do not tell of a read-only disk
            free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise JaxfairError(f"{data_dir} cannot be written ({error.strerror}); choose another data folder.") from error
    if free < needed:
        raise JaxfairError(
            f"{data_dir} has {free / 1e9:.2f} GB of free space where {needed / 1e9:.2f} GB are needed; "
            "make room or choose another data folder."
        )


def _check_stock(name: str, data_dir: Path, instead: str) -> None:
    """Raise a JaxfairError if the preparation of a set cannot succeed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise JaxfairError(
            f"'{name}' is not prepared in {data_dir}, and tfds prepares it only with TensorFlow; "
            f"install jaxfair[tensorflow]{instead}."
        )
    import tensorflow_datasets as tfds

    try:
        urls = tfds.builder_cls(name).url_infos or {}
    except ValueError as error:
        message = f"tfds knows no data set '{name}' ({first_line(error)}); check the name{instead}."
        raise JaxfairError(message) from error
    check_room(data_dir, 2 * sum(int(info.size) for info in urls.values()))  # the download, and what is made of it
    if urls and (reason := _unreachable(next(iter(urls)))):
        raise JaxfairError(f"'{name}' cannot be downloaded: {reason}; connect this machine to the network{instead}.")


def _unreachable(url: str) -> str:
    """Return half a sentence on why nothing can be downloaded, or the empty string if the server answers in time."""
    reason = [f"no answer from {url} within {TIMEOUT:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=TIMEOUT).close()
            reason[0] = ""
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a malformed proxy
            reason[0] = f"no answer from {url} ({first_line(error)})"

    # A thread, since the time limit does not cover the look-up of the server's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return reason[0]


def _run(builder: Any, download_dir: str | None = None) -> Path:
    """Prepare a set as array_record files and return its folder."""
    import tensorflow_datasets as tfds

    folder = Path(builder.data_dir)
    if folder.exists():  # tfds would take it for whole
        raise JaxfairError(f"{folder} is no whole set; remove it and prepare the set again.")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_dir=download_dir, download_config=config, file_format="array_record")
    return folder


def _same_origin(folder: Path, origin: dict[str, str]) -> Path:
    """Return a folder prepared before if it is of the same source."""
    try:
        known = json.loads((folder / "metadata.json").read_bytes())
    except (OSError, ValueError):
        known = {}
    if known.get("identity") != origin["identity"]:
        raise JaxfairError(
            f"{folder} was prepared from {known.get('source', 'another source')}, or before that changed, not from "
            f"{origin['source']} as it is; remove it or choose another data folder."
        )
    return folder


def _check_memory(source: Path, needed: int) -> None:
    """Raise a JaxfairError if tfds would sort the images on disk, which it does by TensorFlow."""
    from tensorflow_datasets.core.shuffle import MAX_MEM_BUFFER_SIZE as LIMIT

    if needed > LIMIT and importlib.util.find_spec("tensorflow") is None:
        raise JaxfairError(
            f"{source} takes {needed / 1e9:.1f} GB, and tfds prepares more than {LIMIT / 1e9:.1f} GB only with "
            "TensorFlow; install jaxfair[tensorflow], or use the images without preparing them."
        )


def _size(source: Path) -> int:
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep tfds from drawing its progress bars."""
    from tensorflow_datasets.core.utils import tqdm_utils

    shown = tqdm_utils._active
    tqdm_utils.display_progress_bar(False)
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(shown)
