"""Keeps floats and tuples that a free list would have handed out again, had it been open."""
import ctypes
import gc
import json
import sys
import time

COLLECTIONS = int(sys.argv[1])
KEPT = 1000


def used_and_dropped():
    floats = [number * 1.5 for number in range(300)]
    tuples = [(number, floats) for number in range(300)]
    return len(floats) + len(tuples)


def keep_floats(kept):
    for number in range(KEPT):
        kept[number] = number * 1.5


def keep_tuples(kept):
    for number in range(KEPT):
        kept[number] = (number, kept)


def keep_small(kept):
    for number in range(KEPT):
        kept[number] = b"%0400d" % number


functions = {function.__name__: id(function.__code__) for function in (keep_floats, keep_tuples, keep_small)}
runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
used_and_dropped()
print(json.dumps({"runtime": runtime, "functions": functions}), flush=True)
sys.stdin.readline()
floats, tuples, small = [None] * KEPT, [None] * KEPT, [None] * KEPT
used_and_dropped()
for _ in range(COLLECTIONS):
    gc.collect()
    used_and_dropped()
    time.sleep(0.1)
    used_and_dropped()
keep_floats(floats)
keep_tuples(tuples)
keep_small(small)
print(json.dumps({"kept": KEPT}), flush=True)
sys.stdin.readline()
