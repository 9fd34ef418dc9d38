"""A real Slurm of one node on this machine, on ports and folders of its own, for a test."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM

DAEMONS = ("munged", "slurmctld", "slurmd")
SETTINGS = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0,defer_batch
ReturnToService=2
SwitchType=switch/none
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:2 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def absent() -> str:
    """Why there can be no Slurm here; "" where there can be."""
    lacking = [name for name in DAEMONS if _daemon(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (Debian: slurm-wlm, munge)"
    return "" if os.getuid() == 0 else "Slurm's node daemon needs root"


def _daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextmanager
def cluster(place: Path, cpus: int = 3) -> Iterator[None]:
    """Within it, SLURM_CONF leads the clients to a node of so many CPUs, whatever there are."""
    for name in ("munge", "state", "spool"):
        (place / name).mkdir(parents=True, mode=0o755)
    key = place / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, two)]
    host = socket.gethostname().partition(".")[0]
    conf = place / "slurm.conf"
    facts = {"host": host, "ports": ports, "user": getpass.getuser(), "place": place}
    conf.write_text(SETTINGS.format(**facts, cpus=cpus))
    (place / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    munge = place / "munge"
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    try:
        _start(
            *("munged", f"--key-file={key}", f"--socket={munge}/socket"),
            *(f"--log-file={munge}/log", f"--pid-file={place}/munged.pid"),
            *(f"--seed-file={munge}/seed", "--num-threads=1", "--force"),
        )
        _start("slurmctld", "-c", "-f", str(conf))
        _start("slurmd", "-c", "-f", str(conf), "-N", host)
        until(lambda: "idle" in asked("sinfo", "--noheader", "--format=%T"), 60, place)
        yield
    finally:
        with suppress(subprocess.SubprocessError, OSError):
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], timeout=20, check=False)
        for name in reversed(DAEMONS):
            _stop(place / f"{name}.pid")
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def asked(*command: str) -> str:
    """What a client of Slurm answers."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def until(there: Callable[[], bool], seconds: float, place: Path | None = None) -> None:
    """Wait until something is so. Raises TimeoutError, with what the daemons have logged."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            logs = sorted(place.rglob("*log")) if place else []
            raise TimeoutError("\n".join(log.read_text()[-2000:] for log in logs))
        time.sleep(0.2)


def _start(name: str, *options: str) -> None:
    """Start a daemon, which goes into the background once it is there."""
    daemon = _daemon(name)
    assert daemon is not None
    done = subprocess.run([daemon, *options], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")


def _stop(pid_file: Path) -> None:
    """End the daemon whose number is in that file, by force where it does not end."""
    with suppress(OSError, ValueError):
        number = int(pid_file.read_text())
        os.kill(number, SIGTERM)
        for _ in range(50):
            time.sleep(0.1)
            os.kill(number, 0)
        os.kill(number, SIGKILL)
