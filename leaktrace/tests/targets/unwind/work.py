"""Python at work: the interpreter, its extension modules and the libraries below them, with calls back into Python."""

import bisect
import collections
import ctypes
import decimal
import functools
import hashlib
import heapq
import io
import itertools
import json
import pickle
import random
import re
import sqlite3
import struct
import sys
import threading
import xml.etree.ElementTree
import zlib

random.seed(29)


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __lt__(self, other):
        return [self.x, self.y] < [other.x, other.y]

    def __repr__(self):
        return f"Point({self.x}, {self.y})"

    def __reduce__(self):
        return Point, (self.x, self.y)


def thing(depth):
    """A value of nested containers."""
    if depth <= 0:
        return random.choice([random.random(), "text" * random.randrange(40), random.getrandbits(200), None])
    if random.random() < 0.5:
        return [thing(depth - 1) for _ in range(random.randrange(4))]
    return {str(random.random()): thing(depth - 1) for _ in range(random.randrange(4))}


def as_json():
    return json.loads(json.dumps(thing(4), indent=random.choice([None, 2])))


def as_pickle():
    return pickle.loads(pickle.dumps([Point(random.random(), thing(2)) for _ in range(10)]))


def expressions():
    pattern = re.compile(r"(\w+)\s(?P<number>\d+)|x{%d}" % random.randrange(100))
    return pattern.sub(lambda match: (match[1] or "") * 3, "word 15 and word 20 " * 10)


def sorting():
    points = [Point(random.random(), "y" * random.randrange(30)) for _ in range(20)]
    points.sort(key=lambda point: repr(point) * 3)
    heapq.heapify(points)
    bisect.insort(points, Point(0.5, ""))
    return sorted(points, key=functools.cmp_to_key(lambda a, b: (a > b) - (a < b)))


def numbers():
    with decimal.localcontext() as context:
        context.prec = random.randrange(20, 400)
        root = decimal.Decimal(random.random()).sqrt() * decimal.Decimal(10).ln()
    return root, pow(3, random.randrange(3000)) // 7, str(2 ** random.randrange(3000))


database = sqlite3.connect(":memory:")
database.execute("create table t (a integer, b text)")
database.create_function("twice", 1, lambda value: str(value) * 2)
database.create_collation("backwards", lambda a, b: (a[::-1] > b[::-1]) - (a[::-1] < b[::-1]))


def rows():
    database.executemany("insert into t values (?, ?)", [(i, str(random.random())) for i in range(5)])
    found = database.execute("select twice(b), count(*) from t group by a order by b collate backwards").fetchall()
    database.execute("delete from t where a < ?", (random.randrange(6),))
    return found


library = ctypes.CDLL(None)
compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))


def through_c():
    values = (ctypes.c_int * 10)(*[random.randrange(100) for _ in range(10)])
    library.qsort(values, 10, 4, compare_type(lambda a, b: len("x" * (a[0] + 600)) - len("x" * (b[0] + 600))))
    return list(values)


def streams():
    data = zlib.compress(repr(thing(3)).encode() * 5)
    text = io.TextIOWrapper(io.BytesIO(zlib.decompress(data)), encoding="utf-8")
    return text.read(), hashlib.sha256(data).hexdigest(), struct.pack("<10d", *[random.random()] * 10)


def trees():
    root = xml.etree.ElementTree.fromstring("<a><b c='d'>text</b>" + "<e/>" * random.randrange(20) + "</a>")
    return xml.etree.ElementTree.tostring(root), [child.tag for child in root.iter()]


def generators(depth=6):
    def inner(level):
        yield [level] * 100
        if level:
            yield from inner(level - 1)

    return list(itertools.chain.from_iterable(inner(depth))), collections.Counter("abracadabra" * 20)


def errors(depth=5):
    try:
        if depth:
            return errors(depth - 1)
        raise ValueError("x" * random.randrange(2000))
    except ValueError as error:
        if depth > 3:
            return repr(error)
        raise RuntimeError("y" * 600) from error
    except RuntimeError as error:
        return str(error.__cause__)


def code():
    return eval(compile("[%s]" % ",".join(f"{i}+len('x'*{i})" for i in range(random.randrange(30))), "made", "eval"))


def in_a_thread():
    if random.random() < 0.1:
        thread = threading.Thread(target=sorting)
        thread.start()
        thread.join()


WORK = [
    as_json, as_pickle, expressions, sorting, numbers, rows, through_c, streams, trees, generators, errors, code, in_a_thread,
]  # fmt: skip

print("ready", flush=True)
while True:
    kept = random.choice(WORK)()
    sys.intern(str(len(str(kept))))
