"""The process that runs a protocol; it is started in an environment of its own, where jaxfair cannot be imported.

SPU needs an older Python, JAX and NumPy than jaxfair. So the parent writes a folder with ``request.json`` and
``request.npz``, starts this file with its path, and reads ``answer.json`` and ``answer.npz``. All parties are threads
of this process that exchange messages in memory: no port is opened, and seconds have no network in them. The file is
written for Python 3.10.
"""

import importlib.util
import json
import os
import re
import stat
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

PARTIES = {"aby3": 3, "cheetah": 2}
COMPARED = re.compile(r"pphlo\.(?:less|greater|maximum|minimum)\w* .*-> tensor<([\dx]*)x?!?pphlo")


def end_with_parent():
    """End this process when its parent does, if that gave it a pipe as standard input."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch():
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read(folder):
    """Return a request, the module that computes layers, the layers, and arrays by kind."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("layers", request["interpreter"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = {}
    with np.load(folder / "request.npz") as stored:
        for name in stored.files:
            kind, _, key = name.partition(":")
            arrays.setdefault(kind, {})[key] = stored[name]
    return request, module, [module.Layer(*one) for one in request["layers"]], arrays


def run(folder):
    """Answer a request: reveal the logits of all images, a batch at a time, and count what was compared."""
    request, module, layers, arrays = read(folder)
    kept, weights, images = arrays.get("kept", {}), arrays["weights"], arrays["images"][""]
    logits, seconds, compared = [], 0.0, 0
    for start in range(0, len(images), request["batch"]):
        batch = images[start : start + request["batch"]]
        found, took, count = reveal(
            lambda weights, x: module.run(layers, weights, kept, x)[-1], weights, batch, request
        )
        logits.append(found)
        seconds += took
        compared += count
    np.savez(folder / "answer.npz", logits=np.concatenate(logits))
    answer = {"seconds": seconds, "compared": compared, "versions": versions()}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def reveal(function, weights, x, request):
    """Compute ``function(weights, x)`` on secret shares; return the result, seconds, and how many were compared."""
    import jax
    from spu import api, libspu
    from spu.utils import frontend

    flat, _ = jax.tree_util.tree_flatten((weights, x))
    names = [f"in{i}" for i in range(len(flat))]
    secret = libspu.Visibility.VIS_SECRET
    program, _ = frontend.compile(
        frontend.Kind.JAX, function, (weights, x), {}, names, [secret] * len(flat), lambda out: ["out"]
    )
    parties = PARTIES[request["protocol"]]
    config = libspu.RuntimeConfig(
        protocol=getattr(libspu.ProtocolKind, request["protocol"].upper()),
        field=libspu.FieldType.FM64,
        fxp_fraction_bits=request["fraction_bits"],
    )
    config.enable_pphlo_profile = config.enable_hal_profile = True
    io = api.Io(parties, config)
    shares = [io.make_shares(np.asarray(one), secret) for one in flat]
    links = libspu.link.Desc()
    for rank in range(parties):
        links.add_party(f"party{rank}", f"thread{rank}")
    found = [None] * parties

    def party(rank):
        try:
            runtime = api.Runtime(libspu.link.create_mem(links, rank), libspu.RuntimeConfig(config))
            for name, share in zip(names, shares):  # noqa: B905
                runtime.set_var(name, share[rank])
            runtime.run(program)
            found[rank] = runtime.get_var("out")
        except BaseException:  # the others would wait for this one's messages
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(parties)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    code = program.code.decode("utf-8")
    sizes = [match[1].rstrip("x") for match in map(COMPARED.search, code.splitlines()) if match]
    return io.reconstruct(found), took, sum(int(np.prod([int(n) for n in size.split("x") if n])) for size in sizes)


def versions():
    """Return the versions of what computed."""
    import importlib.metadata

    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in ("spu", "jax")}}


if __name__ == "__main__":
    end_with_parent()
    run(Path(sys.argv[1]))
