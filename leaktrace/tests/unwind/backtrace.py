"""Runs inside gdb, attached to a target: whenever the probe stops a thread (SIGSTOP), says what gdb takes its stack for.

Lines on stdout that begin with `{` are JSON; gdb's own chatter lies between them. After LEAKTRACE_STOPS stacks it answers
questions for names, one address a line on stdin, until stdin ends; the target is killed then.
"""

import json
import os
import sys

import gdb
import gdb.unwinder

STOPS = int(os.environ["LEAKTRACE_STOPS"])
# leaktrace keeps 127 frames; frame 0 is the allocating function itself.
MOST_FRAMES = 140
# Frames that gdb makes up: they have no return address of their own.
MADE_UP = (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME)


def say(what):
    print(json.dumps(what), flush=True)


def set_up():
    for setting in (
        "pagination off",
        "confirm off",
        "print thread-events off",
        "print inferior-events off",
        # main's callers count: the walk must reach the start. Entry points themselves have no caller.
        "backtrace past-main on",
        "backtrace past-entry off",
        "backtrace limit unlimited",
    ):
        gdb.execute("set " + setting)
    gdb.unwinder.register_unwinder(None, MadeCode())
    gdb.execute("handle all nostop noprint pass", to_string=True)
    gdb.execute("handle SIGSTOP stop print nopass", to_string=True)


def real_frames():
    """Frames from the innermost one out, and why they end."""
    frames = []
    frame = gdb.newest_frame()
    try:
        while frame is not None:
            if frame.type() not in MADE_UP:
                frames.append(frame)
                if len(frames) > MOST_FRAMES:
                    return frames, "long enough"
            older = frame.older()
            # A caller at 0 is how guesses end.
            if older is None or older.pc() == 0:
                return frames, gdb.frame_stop_reason_string(frame.unwind_stop_reason())
            frame = older
    except gdb.error as error:
        return frames, str(error)
    return frames, "no frame"


class Anchor:
    """What names a frame to gdb."""

    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


class MadeCode(gdb.unwinder.Unwinder):
    """Code that was made at run time keeps frame pointers; nothing else could tell its callers."""

    def __init__(self):
        super().__init__("code made at run time")

    def __call__(self, frame):
        pc = frame.read_register("rip")
        if not any(int(pc) in made for made in mappings(gdb.selected_inferior().pid, "")):
            return None
        word = gdb.lookup_type("unsigned long")
        record = frame.read_register("rbp").cast(word.pointer())
        caller = frame.create_unwind_info(Anchor((record + 2).cast(word), pc))
        caller.add_saved_register("rbp", record[0])
        caller.add_saved_register("rip", record[1])
        caller.add_saved_register("rsp", (record + 2).cast(word))
        return caller


def mappings(pid, name):
    """Executable ranges of a process that have this name; none at all: no file."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            if "x" in words[1] and words[5:] == ([name + "\n"] if name else []):
                start, end = words[0].split("-")
                yield range(int(start, 16), int(end, 16))


def trampoline(pid):
    """Where functions return to whose return is probed: the kernel's own mapping."""
    return next(mappings(pid, "[uprobes]"), range(0))


def missing(pid):
    """Libraries that are mapped but unknown to gdb, which misses a change now and then."""
    known = {os.path.realpath(objfile.filename) for objfile in gdb.objfiles()}
    with open(f"/proc/{pid}/maps") as maps:
        paths = {words[5] for line in maps if len(words := line.split(maxsplit=5)) > 5 and "x" in words[1]}
    return {path.strip() for path in paths if path.startswith("/")} - known


def describe(thread):
    if missing(thread.ptid[0]):
        gdb.execute("nosharedlibrary", to_string=True)
        gdb.execute("sharedlibrary", to_string=True)
    frames, end = real_frames()
    hidden = trampoline(thread.ptid[0])
    caller = frames[1] if len(frames) > 1 else None
    return {
        "tid": thread.ptid[1],
        # Where the return address lies: just below the caller's stack.
        "entry_sp": hex((int(caller.read_register("rsp")) - 8) & (2**64 - 1)) if caller else "0x0",
        # Some other tracer probes returns, and gdb cannot see past that. leaktrace does not while it stops threads.
        "hidden": any(frame.pc() in hidden for frame in frames),
        "in": frames[0].name() or "?",
        "end": end,
        "frames": [
            {
                "pc": hex(frame.pc()),
                "name": frame.name() or "?",
                # What lies outside of a signal handler's trampoline was interrupted: no return address.
                "interrupted": frames[index].type() == gdb.SIGTRAMP_FRAME,
            }
            for index, frame in enumerate(frames[1:])
        ],
    }


def collect():
    """Lets the target run from stop to stop."""
    seen = []
    gdb.events.stop.connect(seen.append)
    count = 0
    while count < STOPS:
        seen.clear()
        gdb.execute("continue", to_string=True)
        event = seen[-1] if seen else None
        if isinstance(event, gdb.SignalEvent) and event.stop_signal == "SIGSTOP":
            stop = describe(gdb.selected_thread())
            say(stop)
            count += 0 if stop["hidden"] else 1
        elif gdb.selected_thread() is None:
            say({"failed": "the target has ended"})
            return


def names():
    """Answers for names until nobody asks any more."""
    for line in sys.stdin:
        text = gdb.execute("info symbol " + line.strip(), to_string=True)
        say({"address": line.strip(), "name": text.strip().split(" of ")[0]})


def run():
    set_up()
    say({"attached": gdb.selected_inferior().pid})
    try:
        collect()
        say({"done": STOPS})
        names()
    except gdb.error as error:
        say({"failed": str(error)})
    gdb.execute("kill", to_string=True)


run()
