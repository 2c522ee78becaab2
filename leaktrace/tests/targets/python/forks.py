"""A program that makes copies of itself: `fork`, and `orphan`, whose parent ends at once; each answers with the copy's PID. Each
copy waits, and says what its interpreter's allocator tables hold when it is asked. `tables` answers for all, by PID."""

import json
import os

import protocol

copies = {}


def make(is_orphan):
    """Of two pipes one asks a copy and the other brings its answers."""
    asked, ask = os.pipe()
    answers, answer = os.pipe()
    middle = os.fork()
    if middle == 0:
        if is_orphan and os.fork() != 0:
            os._exit(0)
        os.close(ask)
        be_copy(os.fdopen(asked, "rb", 0), os.fdopen(answer, "wb", 0))
    if is_orphan:
        os.waitpid(middle, 0)
    os.close(asked)
    os.close(answer)
    copy = (os.fdopen(ask, "wb", 0), os.fdopen(answers, "rb"))
    pid = tables_of(copy)["pid"]
    copies[pid] = copy
    return pid


def be_copy(asked, answer):
    for ask, _ in copies.values():
        # Whoever asks them is to be the only one, so that they end with it.
        os.close(ask.fileno())
    while asked.read(1):
        answer.write(json.dumps({"pid": os.getpid(), "tables": protocol.allocators()}).encode() + b"\n")
    os._exit(0)


def tables_of(copy):
    ask, answers = copy
    ask.write(b"?")
    return json.loads(answers.readline())


def tables():
    found = {pid: tables_of(copy)["tables"] for pid, copy in copies.items()}
    found[os.getpid()] = protocol.allocators()
    return found


protocol.serve(fork=lambda: make(False), orphan=lambda: make(True), tables=tables)
