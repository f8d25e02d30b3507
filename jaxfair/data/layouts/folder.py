"""Image folders: the class is the folder, below ``train``, ``test`` and ``validation`` if there are such."""

from itertools import takewhile

from jaxfair.data.columns import PARTS, Index, Rejected, from_names, official_split
from jaxfair.data.files import IMAGE_SUFFIXES, Files
from jaxfair.data.layouts import find
from jaxfair.errors import JaxfairError


def read(files: Files) -> Index:
    """Return the images of class folders in sorted order, with the column ``class``.

    The class is the first folder, or the second where all images lie below ``train``, ``test``, ``val``, ``valid`` or
    ``validation``, which become the split. Folders that all images share are looked through. Folders below a class
    folder are not told apart; ``left_out`` says so, and lists the files that are no images by their extension.
    ``rejected`` are images beside the class folders. A folder's name is its class whatever it is, ``NA`` and ``None``
    too.

    Raises:
        JaxfairError: There is no image, no class folder, or another folder beside those of official parts.
    """
    names, images = sorted(files.names), files.images
    if not images:
        raise JaxfairError(
            f"'{files.path}' holds no image among its {find.several(names)}; expected folders of classes with "
            f"{', '.join(IMAGE_SUFFIXES)} files in them."
        )
    folders = _below_shared([name.split("/")[:-1] for name in images])
    level = _class_level(files, {folder[0] for folder in folders if folder})
    if not level:
        _check_parts(files, folders)
    kept = {name: folder for name, folder in zip(images, folders, strict=True) if len(folder) > level}
    if not kept:
        raise JaxfairError(
            f"'{files.path}' has no class folders: '{images[0]}' lies in none; expected <class>/<image> or "
            "train/<class>/<image>, or give a table of the labels."
        )
    deep = [name for name, folder in kept.items() if len(folder) > level + 1]
    left_out = {
        "in folders below their class folder, which are not told apart": deep,
        "no images by their extension": sorted(set(names) - set(images)),
    }
    return Index(
        title=files.path.absolute().name,
        names=list(kept),
        stream=lambda: files.rows(list(kept)),
        columns={"class": from_names([folder[level] for folder in kept.values()])},
        split=official_split(from_names([folder[0] for folder in kept.values()]) if level else None),
        left_out=tuple(Rejected(find.several(which), reason) for reason, which in left_out.items() if which),
        rejected=tuple(Rejected(name, "lies beside the class folders") for name in images if name not in kept),
    )


def _below_shared(folders: list[list[str]]) -> list[list[str]]:
    """Leave out the folders that all images share, but for the last one if nothing is below it: it may be a class."""
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))
    start = max(0, min(shared, max(map(len, folders)) - 1))
    return [folder[start:] for folder in folders]


def _class_level(files: Files, tops: set[str]) -> int:
    """Return 1 where the first folders are official parts with classes below them, 0 where they are the classes."""
    parts = {top for top in tops if top.lower() in PARTS}
    others = tops - parts
    if len({PARTS[part.lower()] for part in parts}) > 1 and others:
        raise JaxfairError(
            f"In '{files.path}' the folder '{min(others)}' lies beside {' and '.join(sorted(parts))}; "
            "expected either classes or official parts there, so move one of them away."
        )
    return 1 if parts and not others else 0


PART_LIKE = ("train", "test", "val", "eval", "dev", "holdout", "hold_out", "unseen")
"""How names begin that parts of a set have elsewhere."""


def _check_parts(files: Files, folders: list[list[str]]) -> None:
    """Refuse folders that are called like parts and hold the same folders: they would become the classes."""
    inside: dict[str, set[str]] = {}
    for folder in folders:
        inside.setdefault(folder[0] if folder else "", set()).add(folder[1] if len(folder) > 1 else "")
    first = next(iter(inside.values()))
    same = len(inside) > 1 and all(names == first for names in inside.values()) and "" not in {*inside, *first}
    if same and any(top.lower().startswith(PART_LIKE) for top in inside):
        raise JaxfairError(
            f"In '{files.path}' the folders {' and '.join(sorted(inside)[:3])} hold the same folders, as parts of a "
            "set do; call them train, test and validation, or give the one that you mean."
        )
