"""What a user is told: the one exception of a mistake or a failed run, warnings, and the nearest-name hint.

And what users write where nothing is known, which is the same in a file and in an array.
"""

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path


class JaxfairError(ValueError):
    """What went wrong, as one sentence: what was given, what was expected, what to do.

    Command lines print the sentence and exit with status 1; a traceback of any other exception is a bug of ours.

    Example:
        >>> from jaxfair import JaxfairError, load
        >>> try:
        ...     load("digit")
        ... except JaxfairError as error:
        ...     print(error)
        There is no data set 'digit'; did you mean 'digits'?
    """


class StorageError(JaxfairError):
    """A folder or file that cannot be written or read, as on a full disk: no fault of the work that is to be kept."""


STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EFBIG, errno.EMFILE)


def is_of_storage(error: BaseException) -> bool:
    """Return whether an exception is the operating system's word on a disk, also where a library says it in its own."""
    if isinstance(error, OSError):
        return error.errno in STORAGE
    return any(os.strerror(number) in str(error) for number in STORAGE)


def warn(text: str) -> None:
    """Warn, naming the line that called into jaxfair, however deep this is."""
    frame, level, here = sys._getframe(1), 2, f"{Path(__file__).parent}{os.sep}"
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


MOST = 40
"""Of options that an error lists."""
MISSING_TEXTS = frozenset(
    ["", "na", "n/a", "#na", "#n/a", "#n/a n/a", "<na>", "nan", "-nan", "nat", "none", "null", "\\n"]
    + [f"{sign}1.#{kind}" for sign in ("", "-") for kind in ("ind", "qnan")]
)
"""What R, pandas, NumPy, SQL and spreadsheets write where nothing is known, in lower case.

A cell, label or group is missing if it is one of these in any case, with blanks around it or not, wherever it comes
from: CSV, Parquet, an npz file, TFDS, or an array of texts. Names of folders and of files are none of these.
"""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option nearest to ``name``, or the list of options."""
    options = list(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{short(close[0], 60)}'?"
    more = f" and {len(options) - MOST} more" if len(options) > MOST else ""
    return f"; choose from {', '.join(short(option, 60) for option in options[:MOST])}{more}"


def short(text: str, most: int = 200) -> str:
    """Return text of bounded length for a message: a name, a path or a cell may hold anything."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
