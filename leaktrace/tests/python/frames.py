"""Allocates at many places and writes down, in the middle of each allocating call, the stack of frames as the
interpreter itself sees it: [domain, [[address of the code object, f_lasti], ...]] innermost first, and how often."""
import ctypes
import json
import random
import sys
import threading

SIZE = 1 << 20
ROUNDS = int(sys.argv[1])
samples = {}
lock = threading.Lock()


def note(domain, frame):
    key = [domain]
    while frame is not None:
        key.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    with lock:
        samples[tuple(key)] = samples.get(tuple(key), 0) + 1


class Size:
    """Its value is asked for by the very call that allocates, just before it does."""

    def __index__(self):
        note("py", sys._getframe(1))
        return SIZE - 1


class Argument:
    @property
    def _as_parameter_(self):
        note("malloc", sys._getframe(1))
        return SIZE


libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]


def leaf():
    bytearray(Size())


def leaf_without_lock():
    libc.free(libc.malloc(Argument()))


def go(depth):
    if depth <= 0:
        random.choice((leaf, leaf_without_lock))()
        return
    random.choice(STEPS)(depth - 1)


def plain(depth):
    go(depth)


def through_sort(depth):
    sorted([1], key=lambda _: go(depth))


def through_map(depth):
    list(map(go, [depth]))


def through_generator(depth):
    def numbers():
        yield 1
        go(depth)
        yield 2

    for _ in numbers():
        pass


def through_delegation(depth):
    def inner():
        go(depth)
        yield 1

    def outer():
        yield from inner()

    list(outer())


def through_comprehension(depth):
    [go(depth) for _ in (1,)]


def through_expression(depth):
    sum(go(depth) or 0 for _ in (1,))


def through_coroutine(depth):
    async def inner():
        go(depth)

    async def outer():
        await inner()

    coroutine = outer()
    try:
        coroutine.send(None)
    except StopIteration:
        pass


def through_closure(depth):
    value = depth

    def inner():
        nonlocal value
        go(value)

    inner()


def through_class_body(depth):
    class Body:
        go(depth)


class Made:
    def __init__(self, depth):
        go(depth)


def through_init(depth):
    Made(depth)


class Watched:
    @property
    def value(self):
        go(self.depth)

    def __getattr__(self, name):
        go(self.depth)

    def __del__(self):
        go(self.depth)


def through_property(depth):
    watched = Watched()
    watched.depth = depth
    watched.__dict__["depth"] = depth
    watched.value
    watched.__dict__["depth"] = 0


def through_attribute(depth):
    watched = Watched()
    watched.depth = depth
    watched.absent
    watched.__dict__["depth"] = 0


def through_exec(depth):
    exec("go(depth)", {"go": go, "depth": depth})


def through_keywords(depth):
    (lambda *args, **names: go(names["depth"]))(1, 2, depth=depth)


STEPS = [plain, through_sort, through_map, through_generator, through_delegation, through_comprehension]
STEPS += [through_expression, through_coroutine, through_closure, through_class_body, through_init]
STEPS += [through_property, through_attribute, through_exec, through_keywords]


def work(seed):
    for _ in range(ROUNDS):
        go(random.randrange(12))


runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
print(json.dumps({"runtime": runtime}), flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
work(3)
for thread in threads:
    thread.join()
found = [[key[0], [list(frame) for frame in key[1:]], count] for key, count in samples.items()]
print(json.dumps({"samples": found}), flush=True)
sys.stdin.readline()
