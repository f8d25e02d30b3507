"""UTKFace: age, gender and race of a face stand in its file's name."""

import re

import numpy as np

from jaxfair.data.columns import Column, Index, Rejected, from_values
from jaxfair.data.files import Files
from jaxfair.data.layouts import find
from jaxfair.errors import JaxfairError

AGES = ("0-1", "2-12", "13-17", "18-64", "65+")
GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Other")

_FROM_YEARS = (2, 13, 18, 65)  # where each of AGES but the first begins
_COUNT = 23_702  # well-formed names of the aligned set
_PATTERN = "[age]_[gender]_[race]_[stamp].jpg"
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+(\.jpg\.chip)?\.(jpg|jpeg|png)", re.IGNORECASE | re.ASCII)
# The names that are malformed in the set as it is published, up to the first dot.
_KNOWN = {
    "39_1_20170116174525125": "carries no race",
    "61_1_20170109142408075": "carries no race",
    "61_1_20170109150557335": "carries no race",
    "24_0_1_20170116220224657 ": "has a blank before .jpg",
    "55_0_0_20170116232725357jpg": "lacks the dot before jpg",
}


def read(files: Files) -> Index:
    """Read UTKFace: images named ``[age]_[gender]_[race]_[stamp].jpg``, or ``.jpg.chip.jpg``, in any folder.

    The columns are ``age`` in the groups of Das et al. (2024) and 0-1, ``years``, ``gender`` and ``race``. The five
    names that are malformed in the published set are left out; other malformed names and second copies are rejected.

    Raises:
        JaxfairError: No image has such a name.
    """
    names = files.images
    named, copies = find.without_copies([name for name in names if _NAME.fullmatch(find.base(name))])
    if not named:
        raise JaxfairError(
            f"None of the {len(names):,} images of '{files.path}' has a name of the form {_PATTERN}; expected "
            "UTKFace's names, such as 26_1_2_20170116184024662.jpg.chip.jpg."
        )
    malformed = {name: _KNOWN.get(find.stem(name)) for name in names if not _NAME.fullmatch(find.base(name))}
    years, gender, race = np.array([find.stem(name).split("_")[:3] for name in named]).astype(np.int32).T
    return Index(
        title=find.title("UTKFace", len(named), full=len(named) >= _COUNT),
        names=named,
        stream=lambda: files.rows(named),
        columns={
            "age": Column(np.searchsorted(_FROM_YEARS, years, side="right").astype(np.int32), AGES),
            "years": from_values(years.tolist()),
            "gender": Column(gender, GENDERS),
            "race": Column(race, RACES),
        },
        left_out=tuple(Rejected(name, reason) for name, reason in malformed.items() if reason),
        rejected=(*(Rejected(name, f"is not named {_PATTERN}") for name in malformed if not malformed[name]), *copies),
    )
