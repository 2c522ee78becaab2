"""Leaks floats and tuples on lines of their own, while other lines make many and drop them at once: their blocks go from
hand to hand through the interpreter's free lists, so that a leaked object sits in a block that an innocent line asked for."""

import gc
import sys

import protocol

LINES = protocol.marked_lines(__file__)
half = 0.5
leaked = []
dropped = [None] * 64


def innocent_floats():
    """Fills the free list with blocks that are this line's."""
    for i in range(len(dropped)):
        dropped[i] = half * i  # mark: innocent_floats
    for i in range(len(dropped)):
        dropped[i] = None


def innocent_tuples(a):
    for i in range(len(dropped)):
        dropped[i] = (a, i, half)  # mark: innocent_tuples
    for i in range(len(dropped)):
        dropped[i] = None


def leak_float(i):
    value = half * i  # mark: leaked_floats
    leaked.append(value)


def leak_tuple(i):
    value = (i, half, i)  # mark: leaked_tuples
    leaked.append(value)


def collect_garbage():
    """Lets go of every free list, and opens them for more."""
    gc.collect()


def drain():
    """Takes everything out of the free lists that was in them before tracing began: nobody could have seen it."""
    floats = [half * i for i in range(300)]
    tuples = [(i, half, i) for i in range(2100)]
    return len(floats) + len(tuples)


def work(count, collecting="no"):
    """Leaks that many floats and tuples, each among innocent ones."""
    n = int(count)
    drain()
    for i in range(n):
        innocent_floats()
        leak_float(i)
        innocent_floats()
        innocent_tuples(i)
        leak_tuple(i)
        innocent_tuples(i)
        if collecting == "collecting" and i % 50 == 0:
            collect_garbage()
    return {"lines": LINES, "leaked": n, "float_bytes": sys.getsizeof(half), "tuple_bytes": sys.getsizeof((1, 2, 3))}


gc.disable()
work(100)
leaked.clear()
protocol.serve(work=work)
