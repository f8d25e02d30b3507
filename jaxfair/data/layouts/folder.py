"""Image folders: the class is the folder, below ``train``, ``test`` and ``validation`` if there are such."""

import re
from itertools import takewhile, zip_longest

from jaxfair.data.columns import PARTS, Index, Rejected, from_names, official_split
from jaxfair.data.files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, Files
from jaxfair.data.layouts import find
from jaxfair.errors import JaxfairError


def read(files: Files) -> Index:
    """Return the images of class folders in sorted order, with the column ``class``.

    The class is the first folder, or the second where all images lie below ``train``, ``test``, ``val``, ``valid`` or
    ``validation``, which become the split. Folders that all images share are looked through, or all of each part.
    Folders below a class folder are not told apart; ``left_out`` says so, and lists the files that are no images by
    their extension. ``rejected`` are images beside the class folders, and those of formats that are not read. A
    folder's name is its class whatever it is, ``NA`` and ``None`` too.

    Raises:
        JaxfairError: There is no image, no class folder, or another folder beside those of official parts; or what
            would be classes, or lies below them, is called like parts.
    """
    names, images = sorted(files.names), files.images
    if not images:
        raise JaxfairError(
            f"'{files.path}' holds no image among its {find.several(names)}; expected folders of classes with "
            f"{', '.join(IMAGE_SUFFIXES)} files in them."
        )
    folders = [name.split("/")[:-1] for name in images]
    start = _shared(folders)
    folders = [folder[start:] for folder in folders]
    level = _class_level(files, {folder[0] for folder in folders if folder})
    if level:
        folders = _below_parts(folders)
    else:
        _check_tops(files, folders)
    kept = {name: folder for name, folder in zip(images, folders, strict=True) if len(folder) > level}
    if not kept:
        raise JaxfairError(
            f"'{files.path}' has no class folders: '{images[0]}' lies in none; expected <class>/<image> or "
            "train/<class>/<image>, or give a table of the labels."
        )
    _check_below(files, [folder[level + 1 :] for folder in kept.values()])
    deep = [name for name, folder in kept.items() if len(folder) > level + 1]
    unread = [name for name in names if name.lower().endswith(UNREAD_SUFFIXES)]
    left_out = {
        "in folders below their class folder, which are not told apart": deep,
        "no images by their extension": sorted({*names} - {*images, *unread}),
    }
    rejected = [Rejected(name, "lies beside the class folders") for name in images if name not in kept]
    rejected += [Rejected(name, "is of a format that is not read; save it as JPEG or PNG") for name in unread]
    return Index(
        title=files.path.absolute().name,
        names=list(kept),
        stream=lambda: files.rows(list(kept)),
        columns={"class": from_names([folder[level] for folder in kept.values()])},
        split=official_split(from_names([folder[0] for folder in kept.values()]) if level else None),
        left_out=tuple(Rejected(find.several(which), reason) for reason, which in left_out.items() if which),
        rejected=tuple(rejected),
    )


def _shared(folders: list[list[str]]) -> int:
    """Return how many folders all images share, but for the last one if nothing is below it: it may be a class."""
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))
    return max(0, min(shared, max(map(len, folders)) - 1))


def _below_parts(folders: list[list[str]]) -> list[list[str]]:
    """Leave out the folders that all images of a part share, where every part has such: ``train/images/<class>``."""
    inside: dict[str, list[list[str]]] = {}
    for part, *below in filter(None, folders):
        inside.setdefault(part, []).append(below)
    shared = {part: _shared(below) for part, below in inside.items()}
    if not all(shared.values()):
        return folders
    return [folder[:1] + folder[1 + shared[folder[0]] :] if folder else folder for folder in folders]


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


PART_LIKE = re.compile(
    "(train|test|val|eval|dev|holdout|hold.out|unseen)(s|set|sets|val|data|ing|id|idation|uation|elopment)?(?![a-z])"
)
"""How names begin that parts of a set have elsewhere, in lower case; ``valley`` does not."""


def _check_tops(files: Files, folders: list[list[str]]) -> None:
    """Refuse folders that are called like parts and hold folders, which are the classes: they would become these."""
    inside: dict[str, set[str]] = {}
    for folder in folders:
        inside.setdefault(folder[0] if folder else "", set()).add(folder[1] if len(folder) > 1 else "")
    first = next(iter(inside.values()))
    same = len(inside) > 1 and all(names == first for names in inside.values()) and "" not in {*inside, *first}
    if like := [top for top, below in sorted(inside.items()) if PART_LIKE.match(top.lower()) and below - {""}]:
        which, advice = (
            f"folder '{like[0]}' holds folders, as a part of a set does",
            "leave train, test and validation alone there, or, if it is a class, move its images out of its folders",
        )
        if same:
            which = f"folders {' and '.join(sorted(inside)[:3])} hold the same folders, as parts of a set do"
            advice = "call them train, test and validation, or give the one that you mean"
        raise JaxfairError(f"In '{files.path}' the {which}; {advice}.")


def _check_below(files: Files, below: list[list[str]]) -> None:
    """Refuse parts below the classes, as in ``cat/test``: images that are held out would be trained on."""
    for level in zip_longest(*below):
        named = {name for name in level if name is not None}
        parts = {PARTS.get(name.lower()) for name in named}
        if len(parts) > 1 and None not in parts:
            raise JaxfairError(
                f"In '{files.path}' the folders {' and '.join(sorted(named))} lie below the classes and are called as "
                "parts of a set are; put them above, as train/<class>/<image>, or give a table of the labels."
            )
