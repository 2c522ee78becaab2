"""A load of many kinds of objects whose allocations are known: by line, how many blocks it makes and how many it keeps.

What a line keeps is measured by the interpreter's own count of allocated blocks, taken before and after, and rounded to
whole objects: some come from free lists. What it makes is known only for kinds that no free list holds, and that take one block each, without temporary ones."""

import array
import json
import sys

import protocol

byte, letter = b"x", "x"
large_integer = 1 << 200
document = json.dumps({"name": "n" * 20, "tags": ["tag-%d" % i for i in range(5)], "size": [1.5, 2.5], "none": None})
box = [None] * 16
kept = []


class Slotted:
    """One block."""

    __slots__ = ("a", "b", "c")


class Plain:
    """Its attributes lie in a dictionary, in a block of values, or in the instance itself, as the version likes."""

    def __init__(self, a, b):
        self.a = a
        self.b = b


class Derived(Plain):
    """Calls another constructor."""

    def __init__(self, a, b):
        super().__init__(a, b)
        self.c = None


def keep_bytes(slots):
    for i in range(len(slots)):
        slots[i] = byte * 100  # mark: keep_bytes


def keep_strings(slots):
    for i in range(len(slots)):
        slots[i] = letter * 300  # mark: keep_strings


def keep_lists(slots):
    for i in range(len(slots)):
        slots[i] = [None, None, None]  # mark: keep_lists


def keep_dictionaries(slots):
    for i in range(len(slots)):
        slots[i] = {"first": None, "second": None, "third": None}  # mark: keep_dictionaries


def keep_sets(slots):
    for i in range(len(slots)):
        slots[i] = set()  # mark: keep_sets


def keep_slotted(slots):
    for i in range(len(slots)):
        slots[i] = Slotted()  # mark: keep_slotted


def keep_plain(slots):
    for i in range(len(slots)):
        slots[i] = Plain(None, None)  # mark: keep_plain


def keep_derived(slots):
    for i in range(len(slots)):
        slots[i] = Derived(None, None)  # mark: keep_derived


def keep_integers(slots):
    for i in range(len(slots)):
        slots[i] = large_integer + large_integer  # mark: keep_integers


def keep_documents(slots):
    for i in range(len(slots)):
        slots[i] = json.loads(document)  # mark: keep_documents


def keep_large(slots):
    for i in range(len(slots)):
        slots[i] = byte * 10000  # mark: keep_large


def keep_growing(slots):
    growing = slots[0] = []
    for _ in slots:
        growing.append(None)  # mark: keep_growing


# What is dropped again: the last block of each stays in the box, so that its site has something live.
def drop_bytes(n):
    for _ in range(n):
        box[0] = byte * 100  # mark: drop_bytes


def drop_strings(n):
    for _ in range(n):
        box[1] = letter * 300  # mark: drop_strings


def drop_slotted(n):
    for _ in range(n):
        box[2] = Slotted()  # mark: drop_slotted


def drop_integers(n):
    for _ in range(n):
        box[3] = large_integer + large_integer  # mark: drop_integers


def drop_sets(n):
    for _ in range(n):
        box[4] = set()  # mark: drop_sets


def drop_large(n):
    for _ in range(n):
        box[5] = byte * 10000  # mark: drop_large


# Functions that keep one block of a kind that no free list holds, at each turn; bytes of one.
ONE_BLOCK = {
    keep_bytes: sys.getsizeof(byte * 100),
    keep_strings: sys.getsizeof(letter * 300),
    keep_integers: None,
    keep_sets: None,
    keep_slotted: None,
    keep_large: sys.getsizeof(byte * 10000),
}
SEVERAL_BLOCKS = [keep_lists, keep_dictionaries, keep_plain, keep_derived, keep_documents]
DROP = [drop_bytes, drop_strings, drop_slotted, drop_integers, drop_sets, drop_large]
LINES = protocol.marked_lines(__file__)
# Without an object of its own, so that taking a count leaves nothing behind.
counts = array.array("q", [0, 0])


def site(function, **amounts):
    name = function.__name__
    return dict(function=name, line=LINES[name], **amounts)


def measured(function, slots):
    """How many small blocks a function has left behind."""
    counts[0] = sys.getallocatedblocks()
    function(slots)
    counts[1] = sys.getallocatedblocks()
    return counts[1] - counts[0]


def load(n, where):
    """Everything once; what is kept goes to `where`."""
    sites = []
    for function in [*ONE_BLOCK, *SEVERAL_BLOCKS, keep_growing]:
        slots = [None] * n
        where.append(slots)
        small = measured(function, slots)
        if function in ONE_BLOCK:
            size = ONE_BLOCK[function]
            sites.append(site(function, made=n, small=small, kept=n, bytes=size and size * n))
        elif function is keep_growing:
            # Only the list's storage is made on that line, and moved again and again.
            storage = sys.getsizeof(slots[0]) - sys.getsizeof([])
            sites.append(site(function, made=None, small=None, kept=1, bytes=storage))
        else:
            # Some of its objects are in blocks that free lists have handed on.
            whole = (small + n // 2) // n * n
            sites.append(site(function, made=None, small=small, kept=whole, bytes=None))
    for function in DROP:
        function(n * 5)
        sites.append(site(function, made=n * 5, small=None, kept=1, bytes=None))
    return sites


def work(n):
    counted = sys.getallocatedblocks()
    sites = load(int(n), kept)
    return {"sites": sites, "counted_before": counted, "counted_after": sys.getallocatedblocks()}


# The interpreter specialises code that has run a few times: afterwards each line calls the allocator in one way only.
load(100, [])
protocol.serve(work=work)
