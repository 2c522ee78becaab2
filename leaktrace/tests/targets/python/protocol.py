"""What every Python target shares: commands arrive as lines on stdin, each is answered by one line of JSON. Runs
unchanged on Python 3.8 to 3.14."""

import ctypes
import json
import os
import re
import sys
import sysconfig
import tempfile


def marked_lines(file):
    """Lines of a source that end in a comment `# mark: NAME`, by name."""
    with open(file, encoding="utf-8") as source:
        found = [(re.search(r"# mark: (\S+)$", text), number) for number, text in enumerate(source, 1)]
    return {match.group(1): number for match, number in found if match}


class AllocatorTable(ctypes.Structure):
    """PyMemAllocatorEx."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]


def allocators():
    """The allocator tables of the raw, mem and object domains, as the interpreter itself reads them."""
    words = []
    for domain in range(3):
        table = AllocatorTable()
        ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(table))
        words += [getattr(table, name) or 0 for name, _ in AllocatorTable._fields_]
    return words


def free_lists():
    """The longest free list, in objects, as the interpreter itself counts them: it prints to the file behind stderr."""
    with tempfile.TemporaryFile() as output:
        kept = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        output.seek(0)
        text = output.read().decode()
    lengths = re.findall(r"^ *(\d+) free (?:\d+-sized )?Py\w+ \*", text, re.MULTILINE)
    return {"known": len(lengths), "longest": max(map(int, lengths), default=0)}


def identity():
    """Version, and how this interpreter was built as far as it knows itself: Debian keeps its optimisations to itself."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return {
        "version": "%d.%d.%d" % sys.version_info[:3],
        "optimized": "--enable-optimizations" in options,
        "lto": "--with-lto" in options,
    }


def state():
    """What tracing must leave as it was."""
    return {"allocators": allocators(), "free_lists": free_lists()}


def serve(**commands):
    """Answers commands until stdin ends: each is a function of this target, called with the rest of its line."""
    commands.update(identity=identity, state=state)
    print("ready", flush=True)
    for line in sys.stdin:
        name, *arguments = line.split() or ["exit"]
        if name == "exit":
            break
        print(json.dumps(commands[name](*arguments)), flush=True)
