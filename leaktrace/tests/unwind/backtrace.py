"""Runs inside gdb, attached to a target: whenever the probe stops a thread (SIGSTOP), says what gdb takes its stack for.

Lines on stdout that begin with `{` are JSON; gdb's own chatter lies between them. After LEAKTRACE_STOPS stacks it answers
questions for names, one address a line on stdin, until stdin ends; the target is killed then.
"""

import json
import os
import sys

import gdb

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


def trampoline(pid):
    """Where functions return to whose return is probed: the kernel's own mapping."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            if line.rstrip().endswith("[uprobes]"):
                start, end = line.split()[0].split("-")
                return range(int(start, 16), int(end, 16))
    return range(0)


def describe(thread):
    frames, end = real_frames()
    hidden = trampoline(thread.ptid[0])
    if any(frame.pc() in hidden for frame in frames):
        return None
    caller = frames[1] if len(frames) > 1 else None
    return {
        "tid": thread.ptid[1],
        # Where the return address lies: just below the caller's stack.
        "entry_sp": hex((int(caller.read_register("rsp")) - 8) & (2**64 - 1)) if caller else "0x0",
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
            # Some other tracer probes returns, and gdb cannot see past that. leaktrace does not while it stops threads.
            say(stop or {"hidden": gdb.selected_thread().ptid[1]})
            count += 1 if stop else 0
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
