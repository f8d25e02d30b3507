"""What every command line does: parse, set JAX up, turn errors into one sentence."""

import argparse
import dataclasses
import difflib
import errno
import importlib
import inspect
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, get_origin, get_type_hints

from jaxfair import processes
from jaxfair.errors import STORAGE, JaxfairError, did_you_mean, is_of_storage, short

Work = Callable[[Any, list[str]], object]
"""Does what a command is for; it gets the options and the words of the whole command line."""

KEPT = "whatever is finished is kept, and the same command goes on from here"
SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR2", signal.SIGTERM))
"""By which a terminal, an operating system and a cluster (``sbatch --signal=USR2@90``) say that it is time to end."""
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup lets it be
    SIGNALS = (*SIGNALS, signal.SIGHUP)  # of a terminal that is closed
UNUSABLE = (*STORAGE, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of an operating system that are a matter of the disk or of a path, and no bug: a command line names paths."""
ONE_SIGNAL = 1.0
"""Seconds in which further signals are the same one: a terminal or a cluster may tell a process and its parent."""
COMPUTED_WITH = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_softmax_custom_jvp": False,
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
}
"""Settings of JAX that change numbers and are in no run's digest; the precision of products is on every page."""


OF_DATA = ("--data.label", "--data.group", "--data.drop", "--data.numeric", "--data.keep")
"""Options of a study that choose data by several values, see ``several``."""


class Command(NamedTuple):
    """One command of a program.

    Attributes:
        options: a frozen dataclass, whose fields are the options; or complete configurations of one by name, of which
            ``--preset`` chooses and the first is the default.
        load: imports what does the work, which may take JAX and seconds, and returns it; ``--help`` does without.
        after: what is true after an interruption; nothing leaves that to be said by the process that started this one.
        computes: whether JAX is set up for it, which takes a second or two.
        once: options that may not be repeated, see ``several``; of all others the last counts.
        unused: tells of given options which others decide nothing beside them, and what would make them count: by name,
            as "--bcd", which is that of "--bcd.block" too.
    """

    options: type | Mapping[str, Any]
    load: Callable[[], Work]
    after: str = KEPT
    computes: bool = True
    once: Sequence[str] = ()
    unused: Callable[[Any], Mapping[str, str]] = lambda _: {}


def main(
    program: str, text: str | None, commands: Mapping[str, Command], arguments: Sequence[str] | None = None
) -> int:
    """Run a program from the command line and return the exit status.

    Args:
        program: its name in the usage.
        text: about the program, such as its module's docstring.
        commands: by the word that chooses each; "" is what is done without such a word.
        arguments: of the command line; by default the process's.

    Raises:
        SystemExit: 0 after ``--help``, 2 after an option that does not exist or a value that does not parse.
    """
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    word, rest = (given[0], given[1:]) if given and given[0] and given[0] in commands else ("", given)
    if word not in commands and (not given or given[0] in ("-h", "--help")):
        print(f"{(text or '').strip()}\n\nusage: {program} {{{','.join(commands)}}} [options]")
        return 0

    def work(got: list[int]) -> None:
        if odd := [text for text in given if not _is_text(text)]:
            shown = odd[0].encode("utf-8", "surrogateescape")
            advice = "rename the file, or write it so"
            with suppress(UnicodeDecodeError):
                shown, advice = shown.decode(), "the locale has no such letters: set LC_ALL=C.UTF-8"
            raise JaxfairError(f"The argument {shown!r} is not understood as UTF-8; {advice}.")
        _check_words(given)
        if word not in commands:
            raise JaxfairError(f"There is no command '{given[0]}'{did_you_mean(given[0], commands)}")
        about = (text or "").split("\n\n")[0]
        others = [] if word else [name for name in commands if name]
        if others:
            _check_word(given, others)
        _check_repeated(rest, commands[word].once)
        options = parse(commands[word].options, f"{program} {word}".strip(), about, rest, others)
        _check_unused(rest, commands[word].unused(options))
        if commands[word].computes:
            _import()
            configure_jax()
        run = commands[word].load()
        with interruptible(got):
            run(options, [program, *given])

    return _guarded(work, commands[word].after if word in commands else KEPT)


def _open_streams() -> None:
    """Put the null device where a standard stream was closed (``2>&-``), so that nothing fails that is printed.

    The numbers 0 to 2 too, since a study's file that was opened at one of them would get what others print there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # as those of a shell, for the processes that are started from here
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", errors="backslashreplace"))


def _check_words(given: Sequence[str]) -> None:
    """Refuse an empty argument, which would be the current folder, and a ~ that no shell has made a folder of."""
    for before, word in zip(["", *given], given, strict=False):
        option, assigned, value = word.partition("=") if word.startswith("--") else ("", "=", word)
        option = option or (before if before.startswith("--") and "=" not in before else "")
        if assigned and not value and option != "--title":
            raise JaxfairError(f"{option or 'An argument'} is empty, as an unset variable is; give a value.")
        if assigned and value.startswith("~/"):
            raise JaxfairError(f"'{value}' is no folder: the shell did not replace ~; write the whole path.")


def _is_text(argument: str) -> bool:
    """Return whether an argument's bytes are UTF-8: others can be in no record, page or figure."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_word(given: Sequence[str], others: Sequence[str]) -> None:
    """Refuse a first word that is no option and no folder, and nearly a command."""
    near = difflib.get_close_matches(given[0], others, n=1, cutoff=0.75) if given else []
    if near and not given[0].startswith("-") and not Path(given[0]).exists():
        raise JaxfairError(f"There is no command or folder '{given[0]}'; did you mean '{near[0]}'?")


def _guarded(work: Callable[[list[int]], None], after: str = KEPT) -> int:
    """Do the work, print a mistake as one sentence, and return the exit status.

    Args:
        work: to do; it is given a list, for the numbers of the signals that come.
        after: what is true after an interruption, see ``Command``.
    """
    got: list[int] = []
    try:
        work(got)
    except JaxfairError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads what is printed has enough of it, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        # Of a file that is open, as on a full disk, the system says no name.
        shown = f"'{short(str(error.filename), 100)}' cannot be used" if error.filename else "A file cannot be written"
        print(f"error: {shown}: {error.strerror}; {after or KEPT}.", file=sys.stderr)
        return 1
    except MemoryError as error:  # of NumPy, which says how much
        said = f": {short(str(error), 120)}" * bool(str(error))
        print(f"error: The memory does not suffice{said}; give smaller sizes, such as of the network.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        number = (got or [signal.SIGINT])[0]
        if after:
            print(f"\ninterrupted; {after}.", file=sys.stderr)
        if signal.getsignal(number) is _leave:  # threads are at work, as Orbax's, and would tell of Python's end
            _leave(number, None)
        return 128 + number
    return 0


def begin(*, speaks: bool = True) -> None:
    """Set a command's process up, before its ``__main__`` imports anything else.

    Memory that is freed is kept (``processes.keep_memory``). A signal ends the process with one sentence while it still
    imports what it needs; ``main`` then takes the signals over. After a full disk nothing is printed but its sentence.

    Args:
        speaks: whether it is this process that says the sentence; otherwise the one that started it does.
    """
    sys.unraisablehook = _unraised
    for name in ("absl", "asyncio"):  # through which Orbax tells of each of its threads
        logging.getLogger(name).addFilter(_other)
    for number in SIGNALS:
        signal.signal(number, _end if speaks else _leave)
    processes.keep_memory()


def _other(record: logging.LogRecord) -> bool:
    failed = record.exc_info[1] if record.exc_info else None
    return failed is None or not is_of_storage(failed)


def _unraised(lost: Any) -> None:
    """Print what no one could be told of, as Python does, but for writes that failed after a full disk was noticed."""
    if str(lost.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(lost)


def _end(number: int, _: FrameType | None) -> None:
    with suppress(OSError):  # it is closed, or what showed it has ended by the same signal
        os.write(2, b"\ninterrupted before the work began.\n")
    os._exit(128 + number)  # an exception could be lost in the middle of an import


def _leave(number: int, _: FrameType | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError):  # it is closed, or at work
            stream.flush()
    os._exit(128 + number)


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function take the signals for a while, if this is the thread that gets them.

    Afterwards they end a process that has begun by ``begin`` without a word: what there was to say has been said.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, _leave if handled is _end else handled)


@contextmanager
def interruptible(got: list[int]) -> Iterator[None]:
    """Let a signal end the epoch that is under way, with a checkpoint, or else interrupt at once; so does a second one.

    Args:
        got: gets the numbers of the signals that came.
    """
    since = 0.0

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal since
        first, now = not got, time.monotonic()
        if not first and now - since < ONE_SIGNAL:
            return
        got.append(number)
        since = now
        loops = sys.modules.get("jaxfair.loops")
        if not first or loops is None or not loops.stop.after_epoch():
            raise KeyboardInterrupt
        with suppress(OSError):  # what showed it may have ended by the same signal
            # Not by print, which may be at work.
            os.write(2, b"\nThe epoch is finished and saved first; interrupt again to lose it.\n")

    def again(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        timer = threading.Timer(1.1 * ONE_SIGNAL, os.kill, (os.getpid(), got[-1]))
        timer.daemon = True
        timer.start()

    before, sys.unraisablehook = sys.unraisablehook, again  # of a destructor that was interrupted: Python goes on
    try:
        with _handlers(interrupt):
            yield
    finally:
        sys.unraisablehook = before
        if (loops := sys.modules.get("jaxfair.loops")) is not None:
            loops.stop.asked = False


def parse(
    options: type | Mapping[str, Any], program: str, text: str, arguments: Sequence[str], others: Sequence[str] = ()
) -> Any:
    """Read every field of a dataclass as an option, after ``--preset`` where there are presets (see ``Command``).

    Args:
        options: the dataclass, whose docstring says what is done, or its presets.
        program: in the usage.
        text: about the program with presets.
        arguments: of the command line.
        others: other commands of the program, which the help names.

    Raises:
        JaxfairError: no preset has the given name.
        SystemExit: 0 after ``--help``, 2 after an option that does not exist or a value that does not parse.
    """
    import tyro

    named = f"\n\nOther commands, each with its --help: {', '.join(others)}." if others else ""
    if isinstance(options, type):
        own = inspect.cleandoc(options.__doc__ or "").split("\n\nAttributes:")[0]
        return tyro.cli(options, args=arguments, prog=program, description=own + named)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=next(iter(options)))
    chosen, rest = first.parse_known_args(list(arguments))
    if chosen.preset not in options:
        raise JaxfairError(f"There is no preset '{chosen.preset}'{did_you_mean(chosen.preset, options)}")
    default = options[chosen.preset]
    presets = f"Presets (--preset NAME): {', '.join(options)}; the defaults below are of '{chosen.preset}'."
    return tyro.cli(type(default), default=default, args=rest, prog=program, description=f"{text}{named}\n\n{presets}")


def _typed(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line as options are called, without their values where these are part of them."""
    return [word.partition("=")[0].replace("_", "-") for word in arguments]


def _check_unused(arguments: Sequence[str], unused: Mapping[str, str]) -> None:
    """Refuse an option that was typed and decides nothing; what a preset says of it is no matter."""
    for word in _typed(arguments):
        for name, advice in unused.items():
            if word == name or word.startswith(f"{name}."):
                instead = f", or {advice}" if advice else ""
                raise JaxfairError(f"{word} decides nothing in this study; leave it out{instead}.")


def _check_repeated(arguments: Sequence[str], once: Sequence[str]) -> None:
    """Refuse an option that is given twice where the last would count, and the values before be lost without a word."""
    given = _typed(arguments)
    if twice := [word for word in once if given.count(word) > 1]:
        raise JaxfairError(f"The option {twice[0]} is given twice; give all of its values after one.")


def several(options: type | Mapping[str, Any]) -> list[str]:
    """Return the options of a ``Command`` that take several values: a second one would undo the first without a word.

    Args:
        options: of the command.
    """
    kind = options if isinstance(options, type) else type(next(iter(options.values())))
    return list(_of_several(kind, "--"))


def _of_several(kind: type, before: str) -> Iterator[str]:
    from tyro.conf import OmitArgPrefixes

    if OmitArgPrefixes in vars(kind).get("__tyro_markers__", ()):  # where tyro.conf.configure notes it
        before = "--"
    for name, hint in get_type_hints(kind).items():
        word = before + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from _of_several(hint, f"{word}.")  # pyright: ignore[reportArgumentType]
        elif get_origin(hint) is tuple:
            yield word


def _import() -> None:
    """Import what reads variables of the environment as it is imported, before hours of work for what it would draw.

    Raises:
        JaxfairError: it cannot be imported, or does not understand a variable.
    """
    for name, variables in (("jax", "JAX_..."), ("matplotlib", "MPLBACKEND")):
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            why = short(" ".join(str(error).split()), 120).rstrip(".")
            raise JaxfairError(f"{name} cannot be imported: {why}; see {variables} in the environment.") from error


def configure_jax() -> None:
    """Set full float32 products and a compilation cache on disk, which spares a second run the compilation.

    What JAX's own environment variables say stays: the hardware study starts processes with other precisions, and a
    cluster may have a better place for the cache.

    Raises:
        JaxfairError: they say what would change numbers and be seen in no record.
    """
    import jax

    from jaxfair.data import cache as store

    for name, expected in COMPUTED_WITH.items():
        if (found := getattr(jax.config, name, jax.config.values.get(name, expected))) != expected:
            raise JaxfairError(
                f"{name.upper()} is {found}, which changes numbers: this command computes with {expected}; unset it."
            )
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # what ``processes.keep_memory`` needs
    # A program that calls oneDNN cannot be kept (jax 0.11.2): it is compiled again, which is nothing to warn of.
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry")
    cache = store.user_folder("compiled")
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # no writable home: compile every time
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
