"""What the benchmarks' command lines share: a file that is checked first, one process at it, mistakes in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments import cli
from jaxfair import processes
from jaxfair.errors import JaxfairError


@contextmanager
def making(out: Path | None, ending: str = ".json", after: str = "nothing was written") -> Iterator[None]:
    """Let a command do the work for a file; another process that is told the same file waits.

    Args:
        out: the file, which need not be there; None where the command only prints.
        ending: of the file's name, so that no other one is replaced by a slip.
        after: what is true after an interruption.

    Raises:
        SystemExit: with one sentence, of a mistake, an interruption, or a file that cannot be written, before the work.
    """
    try:
        if out is not None and (out.suffix != ending or out.is_dir()):
            raise JaxfairError(f"--out is '{out}'; name a file that ends in {ending}.")
        with cli.interruptible([]), processes.locked([] if out is None else [out], print):
            yield
    except (JaxfairError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; {after}") from None
