"""A SLURM cluster of one machine on loopback, with munged, slurmctld and a slurmd a node: no accounting, no cgroups.

    python tests/experiments/running/slurm_cluster.py FOLDER

keeps one up until it is interrupted, and prints what to export. Needs root, and Debian's packages slurm-wlm and munge.
Not a test itself.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=20
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why there can be no cluster here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"there is no {absent[0]}"
    return None if os.getuid() == 0 else "SLURM is started by root"


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on."""
    with_port = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_port]
    for one in with_port:
        one.close()
    return ports


def scontrol(*words: str) -> str:
    """Run scontrol and return what it prints."""
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def _wait_until_idle(nodes: Sequence[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        answer = subprocess.run(
            ["sinfo", "--noheader", "-N", "-o", "%N %t"], capture_output=True, text=True, check=False
        )
        if sorted(answer.stdout.split()[::2]) == sorted(nodes) and set(answer.stdout.split()[1::2]) == {"idle"}:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"The nodes are not up: {answer.stdout}{answer.stderr}")
        time.sleep(0.3)


@contextmanager
def running(folder: Path, cpus: int = 2) -> Iterator[list[str]]:
    """Keep a cluster up, and SLURM_CONF set for its commands; yields the names of its nodes."""
    host, nodes = socket.gethostname(), ["node1"]
    ports = free_ports(1 + len(nodes))
    (folder / "state").mkdir(parents=True)
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000 State=UNKNOWN"
        for name, port in zip(nodes, ports[1:], strict=True)
    ]
    about = {"host": host, "ports": ports, "user": "root", "folder": folder, "nodes": "\n".join(lines)}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**about))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    files = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values()]
    conf = ["-f", str(folder / "slurm.conf")]
    commands = [munged, ["slurmctld", "-D", *conf], *(["slurmd", "-D", *conf, "-N", name] for name in nodes)]
    before, started = os.environ.get("SLURM_CONF"), []
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        for command in commands:
            log = (folder / f"{command[0]}.out").open("ab")
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            log.close()
            while command[0] == "munged" and not (folder / "munge.socket").exists():
                assert started[0].poll() is None, (folder / "munged.out").read_text()
                time.sleep(0.05)
        _wait_until_idle(nodes)
        yield nodes
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(Path(sys.argv[1]).absolute()):
        print(f"export SLURM_CONF={Path(sys.argv[1]).absolute() / 'slurm.conf'}", flush=True)
        signal.pause()
