"""What every command line does: parse, set JAX up, turn errors into one sentence."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from jaxfair.errors import JaxfairError, did_you_mean

Config = TypeVar("Config")


def main(
    presets: Mapping[str, Config],
    run: Callable[[Config], None],
    *,
    program: str,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a study from the command line and return the exit status.

    Args:
        presets: complete configurations by name; the first is the default of ``--preset``.
        run: the study.
        program: name shown in the usage.
        description: shown above the options.
        arguments: of the command line; by default the process's.
    """
    given = sys.argv[1:] if arguments is None else arguments

    def study() -> None:
        config = parse(presets, program, description, given)
        configure_jax()
        run(config)

    return guarded(study)


STUDY = "finished runs are kept, and the same command goes on from here"


def guarded(work: Callable[[], None], after: str = STUDY) -> int:
    """Do the work, print a mistake as one sentence, and return the exit status.

    Args:
        work: to do.
        after: what is true after an interruption.
    """
    try:
        work()
    except JaxfairError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        print(f"error: '{error.filename}' cannot be used: {error.strerror}; {after}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; {after}.", file=sys.stderr)
        return 130
    return 0


def parse(presets: Mapping[str, Config], program: str, description: str, arguments: Sequence[str]) -> Config:
    """Read ``--preset`` and then every field of its configuration as an option.

    Raises:
        JaxfairError: no preset has the given name.
        SystemExit: 0 after ``--help``, 2 after an option that does not exist or a value that does not parse.
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=next(iter(presets)))
    chosen, rest = first.parse_known_args(list(arguments))
    if chosen.preset not in presets:
        raise JaxfairError(f"There is no preset '{chosen.preset}'{did_you_mean(chosen.preset, presets)}")
    default = presets[chosen.preset]
    text = (
        f"{description}\n\nPresets (--preset NAME): {', '.join(presets)}; the defaults below are of '{chosen.preset}'."
    )
    return tyro.cli(type(default), default=default, args=rest, prog=program, description=text)


def configure_jax() -> None:
    """Set full float32 products and a compilation cache on disk, which spares a second run the compilation.

    What JAX's own environment variables say stays: the hardware study starts processes with other precisions, and a
    cluster may have a better place for the cache.
    """
    import jax

    from jaxfair.data import cache as store

    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")
    cache = store.user_folder("compiled")
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # no writable home: compile every time
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
