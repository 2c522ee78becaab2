"""A pre-fork server as in production: gunicorn with four sync workers, recycled after some requests each. Every worker leaks one
object a request (`orders.py`) and keeps account of it where its end does not matter: in a file of its own, in the directory that is
the argument. Commands: `port`, `pids` (the master and its workers), `accounts`, `hold` (workers made from now on wait until
they are released), `release PID`, `last` (workers made from now on are not recycled)."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

import orders
import protocol

WORKERS = 4
# A worker that waits until it is traced is not to be killed for being idle, however slow the machine.
TIMEOUT = 600
PR_SET_PDEATHSIG = 1

directory = sys.argv[1]
sources = os.path.dirname(os.path.abspath(orders.__file__))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start():
    """As an administrator does."""
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:%d" % address, "--log-level", "warning"]
    command += ["--workers", str(WORKERS), "--max-requests", "40", "--max-requests-jitter", "20"]
    command += ["--timeout", str(TIMEOUT), "--graceful-timeout", "10"]
    command += ["--chdir", sources, "--config", os.path.join(sources, "prefork_hooks.py"), "orders:application"]
    prctl = ctypes.CDLL(None).prctl
    return subprocess.Popen(
        command,
        env=dict(os.environ, ACCOUNTS=directory, PYTHONPATH=sources),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        # It is not to outlive us, however we end.
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def workers():
    with open("/proc/%d/task/%d/children" % (master.pid, master.pid)) as children:
        return [int(pid) for pid in children.read().split()]


def await_workers():
    """Until all of them serve."""
    while sum(name.endswith(".account") for name in os.listdir(directory)) < WORKERS:
        if master.poll() is not None:
            sys.exit("gunicorn has ended: %d" % master.returncode)
        time.sleep(0.02)


def accounts():
    """By worker, those that have ended too: when it was made, and when it leaked; nanoseconds."""
    found = []
    for name in os.listdir(directory):
        if not name.endswith(".account"):
            continue
        with open(os.path.join(directory, name)) as lines:
            times = [int(line) for line in lines]
        if times:
            found.append({"pid": int(name.split(".")[0]), "made": times[0], "leaked": times[1:]})
    return {"workers": found, "lines": protocol.marked_lines(orders.__file__)}


def hold():
    orders.flag(directory, "hold")
    return True


def release(pid):
    orders.flag(directory, pid + ".go")
    return True


def last():
    orders.flag(directory, "last")
    return True


address = free_port()
master = start()
try:
    await_workers()
    protocol.serve(
        port=lambda: address,
        pids=lambda: [master.pid] + workers(),
        accounts=accounts,
        hold=hold,
        release=release,
        last=last,
    )
finally:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, "hold"))
    master.terminate()
    master.wait()
