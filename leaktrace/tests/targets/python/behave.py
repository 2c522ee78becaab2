"""Runs one of `behaviours.py`: `behave.py BEHAVIOUR SCALE [NAMES]`. The scale is how many seconds growth lasts where it ends.
NAMES is `plain` or `other`: then the code is the same, line by line, and every name in it says something else.

Begins at the command `go`, or at once if NAMES is followed by `alone`: it then runs until it is killed."""

import pathlib
import re
import sys
import threading

import protocol

SOURCE = pathlib.Path(__file__).with_name("behaviours.py")
# Leaks are given the names of innocents, and the other way round.
OTHER_NAMES = {
    "audit_trail": "lru_cache",
    "samples": "free_list",
    "measure": "evict",
    "queue": "pool",
    "index": "bounded",
    "message": "reused",
    "answers": "leaked_forever",
    "templates": "never_freed",
    "batch": "leak",
    "under_way": "grows_without_bound",
    "rows": "lost",
    "connections": "dangling",
    "connect": "leak_one",
    "request": "serve",
    "run": "main_loop",
}


def load(names):
    text, file = SOURCE.read_text(encoding="utf-8"), str(SOURCE)
    if names == "other":
        for plain, other in OTHER_NAMES.items():
            text = re.sub(r"\b%s\b(?!\")" % plain, other, text)
        file = str(SOURCE.with_name("elsewhere.py"))
    scope = {"__name__": "behaviours"}
    exec(compile(text, file, "exec"), scope)
    return scope


def main(name, scale, names="plain", alone=""):
    behaviour = load(names)[name](float(scale))
    run = getattr(behaviour, OTHER_NAMES["run"] if names == "other" else "run")
    if alone:
        run()
    thread = threading.Thread(target=run, daemon=True)
    protocol.serve(
        go=lambda: thread.start() or True,
        status=lambda: {"requests": behaviour.requests, "ended_s": behaviour.ended},
        line=lambda: protocol.marked_lines(str(SOURCE))[name],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
