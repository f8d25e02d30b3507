"""From what lies on disk to decoded images with columns, through the cache."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxfair.data import cache as store
from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.data.files import Files, identity, open_files, open_nested
from jaxfair.data.images import decode_all
from jaxfair.data.layouts import arrays, celeba, cifar10, find, folder, prepared, svhn, table, utkface
from jaxfair.data.protocol import Collection
from jaxfair.errors import JaxfairError

Layout = Literal["utkface", "cifar10", "svhn", "celeba", "folder", "table", "npz", "tfds"]
OnProgress = Callable[[int, int], None]
FORMAT = 1  # of what is in the cache; a change of decoding or of a layout raises it


class Place(NamedTuple):
    """Where a source lies.

    Attributes:
        layout: of it.
        path: folder, archive or file.
        images: folder or archive that a table's paths are in; None for the table's own folder.
        image_column: of a table its paths, of a TFDS set its images; None is ``path`` and ``image``.
    """

    layout: Layout
    path: Path
    images: Path | None = None
    image_column: str | None = None


def collect(
    place: Place,
    size: int | None,
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Collection:
    """Decode a source into the cache, or map what is there already.

    Args:
        place: where the source lies.
        size: height and width; None is 32, and an npz file's own.
        cache: of decoded images; None is ``store.default_cache()``.
        on_progress: called with the images decoded and those to decode.

    Raises:
        JaxfairError: the source is absent, damaged or of another layout.
    """
    layout, path = place.layout, place.path
    images_in = (place.images or path.parent) if layout == "table" else path
    sources = [identity(source) for source in dict.fromkeys((path, images_in))]
    key = {"format": FORMAT, "layout": layout, "column": place.image_column, "size": size, "sources": sources}

    def build(allocate: Callable[[tuple[int, ...]], np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        with _opened(images_in) as files:
            index = _read(place, files)
            if not len(index.names):
                raise JaxfairError(f"There is no image in '{images_in}'; expected the layout '{layout}'.")
            native = index.size or (32, 32, 3)
            height, width = (size, size) if size else native[:2] if layout == "npz" else (32, 32)
            images = allocate((len(index.names), height, width, native[2]))
            unreadable = decode_all(index.stream(), images, on_progress=on_progress)
        return _stored(index, unreadable)

    return _restored(store.load_or_build(cache or store.default_cache(), key, build))


def _opened(path: Path) -> Files:
    """Open a source; a folder without images of its own has them in archives."""
    files = open_files(path)
    return files if not path.is_dir() or find.images(files) else open_nested(path)


def _read(place: Place, files: Files) -> Index:
    try:
        return _parsed(place, files)
    except JaxfairError as error:
        if files.archives and not files.path.is_dir():  # a zip in a zip
            hint = f"it holds the archive '{files.archives[0]}': unpack that, and name it instead"
            raise JaxfairError(f"{str(error).rstrip('.')}; {hint}.") from error
        raise


def _parsed(place: Place, files: Files) -> Index:
    if place.layout == "table":
        return table.read(place.path, files, place.image_column or "path")
    if place.layout == "npz":
        return arrays.read(place.path)
    if place.layout == "tfds":
        return prepared.read(place.path, image=place.image_column or "image")
    readers = {"utkface": utkface, "cifar10": cifar10, "svhn": svhn, "celeba": celeba, "folder": folder}
    return readers[place.layout].read(files)


def _stored(index: Index, unreadable: Mapping[int, str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    columns = [*index.columns.values(), *([index.split] if index.split else [])]
    record = {
        "title": index.title,
        "columns": [[name, column.names] for name, column in index.columns.items()],  # a list keeps its order
        "split": index.split.names if index.split else None,
        "unreadable": {str(row): reason for row, reason in unreadable.items()},
        "left_out": index.left_out,
        "rejected": index.rejected,
    }
    codes = np.stack([c.codes for c in columns]) if columns else np.zeros((0, len(index.names)), np.int32)
    return {"codes": codes, "names": np.array(index.names, dtype=np.str_)}, record


def _restored(entry: store.Entry) -> Collection:
    record, codes = entry.record, entry.arrays["codes"]
    return Collection(
        title=record["title"],
        images=entry.arrays["images"],
        names=entry.arrays["names"].tolist(),
        columns={name: Column(codes[i], tuple(values)) for i, (name, values) in enumerate(record["columns"])},
        split=Column(codes[-1], tuple(record["split"])) if record["split"] else None,
        unreadable={int(row): reason for row, reason in record["unreadable"].items()},
        left_out=tuple(Rejected(*item) for item in record["left_out"]),
        rejected=tuple(Rejected(*item) for item in record["rejected"]),
    )
