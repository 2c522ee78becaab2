"""Samples: blocks of unique sizes, each kept with the Python stack in which it was made, as `sys._getframe` shows it.
Python's ways of calling are composed with one another, so that no two samples have the same stack."""

import asyncio
import bisect
import codecs
import collections
import contextlib
import ctypes
import functools
import heapq
import importlib.abc
import importlib.machinery
import itertools
import json
import operator
import queue
import random
import re
import sqlite3
import sys
import threading
import time
import weakref

import protocol

byte = b"x"
kept = []
seen = set()
samples = []
asked, answered = queue.SimpleQueue(), queue.SimpleQueue()
HEADER = sys.getsizeof(b"")
# The header of a bytes object comes on top. Up to 512 bytes pymalloc serves, above it the C library.
small_sizes = iter(range(8, 470))
large_sizes = itertools.count(600)
LINES = protocol.marked_lines(__file__)


def name_of(code):
    """As tracebacks show it; qualified where code objects know their qualified name."""
    return getattr(code, "co_qualname", code.co_name)


def stack_of(frame):
    """Function, file and line of each frame, innermost first."""
    found = []
    while frame is not None:
        found.append((name_of(frame.f_code), frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found


def record():
    """Notes stacks, in a thread of its own: what it allocates for that has one stack, not that of every sample. Answers
    with the size that the block will have; with none if another one was made in the very same stack."""
    while True:
        frame, sizes = asked.get()
        stack = stack_of(frame)
        stack[0] = stack[0][:2] + (LINES["sample"],)
        key = tuple(stack)
        if key in seen:
            answered.put(None)
            continue
        seen.add(key)
        size = next(sizes, None) or next(large_sizes)
        samples.append({"bytes": size + HEADER, "stack": stack})
        del frame
        # Whoever walks the stacks of all this must not fall behind for good.
        time.sleep(0.008)
        answered.put(size)


def sample(sizes=large_sizes):
    """Keeps one block, unless another one was made in the very same stack."""
    asked.put((sys._getframe(), sizes))
    size = answered.get()
    if size:
        data = byte * size  # mark: sample
        kept.append(data)


# Ways to call: each calls `thunk` once.
def plainly(thunk):
    thunk()


def by_method(thunk):
    class Caller:
        def method(self):
            thunk()

    Caller().method()


def by_class_method(thunk):
    class Caller:
        @classmethod
        def method(cls):
            thunk()

    Caller.method()


def by_constructor(thunk):
    class Constructed:
        def __init__(self):
            thunk()

    Constructed()


def by_new(thunk):
    class Made:
        def __new__(cls):
            thunk()
            return object.__new__(cls)

    Made()


def by_super(thunk):
    class Base:
        def method(self):
            thunk()

    class Derived(Base):
        def method(self):
            super().method()

    Derived().method()


def by_closure(thunk):
    def outer():
        def inner():
            thunk()

        inner()

    outer()


def by_lambda(thunk):
    (lambda: thunk())()


def by_list_comprehension(thunk):
    [thunk() for _ in "x"]


def by_nested_comprehension(thunk):
    {a: [thunk() for _ in "y"] for a in "x"}


def by_set_comprehension(thunk):
    {thunk() for _ in "x"}


def by_generator_expression(thunk):
    list(thunk() for _ in "x")


def by_generator(thunk):
    def generator():
        yield 1
        thunk()
        yield 2

    for _ in generator():
        pass


def by_delegation(thunk):
    def innermost():
        yield thunk()

    def middle():
        yield from innermost()

    def outermost():
        yield from middle()

    for _ in outermost():
        pass


def by_send(thunk):
    def generator():
        received = yield
        received()
        yield

    running = generator()
    next(running)
    running.send(thunk)


def by_throw(thunk):
    def generator():
        try:
            yield
        except KeyError:
            thunk()
        yield

    running = generator()
    next(running)
    running.throw(KeyError("x"))


def by_closing(thunk):
    def generator():
        try:
            yield
        finally:
            thunk()

    running = generator()
    next(running)
    running.close()


def by_coroutine(thunk):
    async def inner():
        thunk()

    async def outer():
        await inner()

    with contextlib.suppress(StopIteration):
        outer().send(None)


def by_asynchronous_generator(thunk):
    async def generator():
        yield thunk()

    async def consume():
        async for _ in generator():
            pass

    with contextlib.suppress(StopIteration):
        consume().send(None)


async def run_as_task(thunk):
    async def work():
        await asyncio.sleep(0)
        thunk()

    await asyncio.gather(asyncio.ensure_future(work()), asyncio.ensure_future(asyncio.sleep(0)))


def by_task(thunk):
    if asyncio._get_running_loop() is None:
        asyncio.run(run_as_task(thunk))
    else:
        by_thread(lambda: asyncio.run(run_as_task(thunk)))


def by_loop_callback(thunk):
    async def wait():
        done = asyncio.get_running_loop().create_future()

        def callback():
            thunk()
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await done

    if asyncio._get_running_loop() is None:
        asyncio.run(wait())
    else:
        by_thread(lambda: asyncio.run(wait()))


def by_thread(thunk):
    thread = threading.Thread(target=thunk)
    thread.start()
    thread.join()


def by_key(thunk):
    sorted([1], key=lambda _: thunk())


def by_least(thunk):
    min([1, 2], key=lambda number: number == 1 and thunk() or number)


def by_substitution(thunk):
    re.sub("b", lambda match: thunk() or "c", "abc")


def by_reduce(thunk):
    functools.reduce(lambda a, b: thunk(), [1, 2])


def by_map(thunk):
    list(map(lambda _: thunk(), "x"))


def by_filter(thunk):
    list(filter(lambda _: thunk(), "x"))


def by_accumulate(thunk):
    list(itertools.accumulate([1, 2], lambda a, b: thunk()))


def by_partial(thunk):
    functools.partial(lambda a, b: thunk(), 1)(b=2)


def by_cache(thunk):
    functools.lru_cache(maxsize=None)(lambda: thunk())()


def by_dispatch(thunk):
    functools.singledispatch(lambda argument: thunk())(1)


def by_foreign_callback(thunk):
    function = ctypes.CFUNCTYPE(ctypes.c_int)
    function(lambda: thunk() or 0)()


def by_foreign_sort(thunk):
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(1, 2)
    ctypes.CDLL(None).qsort(numbers, 2, ctypes.sizeof(ctypes.c_int), function(lambda a, b: thunk() or 0))


def by_database(thunk):
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.create_function("callback", 0, lambda: thunk())
        database.execute("select callback()").fetchall()


def by_finalizer(thunk):
    class Dying:
        def __del__(self):
            thunk()

    dying = Dying()
    del dying


def by_weak_reference(thunk):
    class Dying:
        pass

    dying = Dying()
    reference = weakref.ref(dying, lambda _: thunk())
    del dying
    del reference


def by_missing_attribute(thunk):
    class Dynamic:
        def __getattr__(self, name):
            thunk()

    Dynamic().anything


def by_every_attribute(thunk):
    class Dynamic:
        def __getattribute__(self, name):
            thunk()

    Dynamic().anything


def by_property(thunk):
    class Holder:
        @property
        def value(self):
            thunk()

    Holder().value


def by_setter(thunk):
    class Descriptor:
        def __set__(self, instance, value):
            thunk()

    class Holder:
        value = Descriptor()

    Holder().value = 1


def by_decorator(thunk):
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*arguments, **named):
            return function(*arguments, **named)

        return wrapper

    @decorated
    def call(function):
        function()

    call(thunk)


@contextlib.contextmanager
def around(thunk):
    thunk()
    yield


def by_context_manager(thunk):
    with around(thunk):
        pass


def by_leaving(thunk):
    class Context:
        def __enter__(self):
            return self

        def __exit__(self, *raised):
            thunk()

    with Context():
        pass


def by_exit_stack(thunk):
    with contextlib.ExitStack() as stack:
        stack.callback(thunk)


def by_metaclass(thunk):
    class Meta(type):
        def __call__(cls):
            thunk()

    class Made(metaclass=Meta):
        pass

    Made()


def by_making_a_class(thunk):
    class Meta(type):
        def __new__(meta, name, bases, body):
            thunk()
            return super().__new__(meta, name, bases, body)

    class Made(metaclass=Meta):
        pass


def by_deriving(thunk):
    class Base:
        def __init_subclass__(cls):
            thunk()

    class Derived(Base):
        pass


def by_class_body(thunk):
    class Body:
        thunk()


# Compiled once, and kept: code that is gone before anybody looks has no name.
EXECUTED = compile("def f():\n    thunk()\n\nf()", "executed.py", "exec")
EVALUATED = compile("[thunk(), 1]", "evaluated.py", "eval")
FAR_BELOW = compile("\n" * 70000 + "thunk()\n", "far below.py", "exec")
MODULE = compile("import sys\n\n\nclass Body:\n    sys.thunks.pop()()\n", "/modules/module.py", "exec")


def by_execution(thunk):
    exec(EXECUTED, {"thunk": thunk})


def by_evaluation(thunk):
    eval(EVALUATED, {"thunk": thunk})


def by_compiled_code(thunk):
    exec(FAR_BELOW, {"thunk": thunk})


class OneModule(importlib.abc.InspectLoader):
    """A module that calls while it is imported."""

    def get_code(self, name):
        return MODULE

    def get_source(self, name):
        return None

    def is_package(self, name):
        return False

    def find_spec(self, name, path=None, target=None):
        if name.startswith("module_of_a_sample_"):
            return importlib.machinery.ModuleSpec(name, self)


modules = itertools.count()
sys.meta_path.insert(0, OneModule())
sys.thunks = []


def by_import(thunk):
    sys.thunks.append(thunk)
    __import__("module_of_a_sample_%d" % next(modules))


def by_comparison(thunk):
    class Compared:
        def __lt__(self, other):
            thunk()
            return True

    bisect.insort([Compared()], Compared())


def by_heap(thunk):
    class Compared:
        def __lt__(self, other):
            thunk()
            return True

    heapq.heappush([Compared()], Compared())


def by_hash(thunk):
    class Hashed:
        def __hash__(self):
            thunk()
            return 1

    {Hashed(): 1}


def by_iteration(thunk):
    class Iterated:
        def __iter__(self):
            return self

        def __next__(self):
            thunk()
            raise StopIteration

    for _ in Iterated():
        pass


def by_unpacking(thunk):
    class Sequence:
        def __getitem__(self, index):
            if index:
                raise IndexError
            thunk()

    (_,) = Sequence()


def by_operator(thunk):
    class Number:
        def __add__(self, other):
            thunk()

    Number() + 1


def by_reflected_operator(thunk):
    class Number:
        def __rmul__(self, other):
            thunk()

    2 * Number()


def by_truth(thunk):
    class Truth:
        def __bool__(self):
            thunk()
            return True

    if Truth():
        pass


def by_text(thunk):
    class Shown:
        def __repr__(self):
            thunk()
            return ""

    f"{Shown()!r:>4}"


def by_format(thunk):
    class Shown:
        def __format__(self, form):
            thunk()
            return ""

    "{:x}".format(Shown())


def by_missing_key(thunk):
    class Table(dict):
        def __missing__(self, key):
            thunk()

    Table()["x"]


def by_default(thunk):
    collections.defaultdict(lambda: thunk())["x"]


def by_json(thunk):
    json.dumps([object()], default=lambda _: thunk())


def by_json_hook(thunk):
    json.loads('{"a": {}}', object_pairs_hook=lambda pairs: pairs and thunk())


def by_error_handler(thunk):
    codecs.register_error("sampling", lambda error: (thunk() or "", error.end))
    "\u1234".encode("ascii", "sampling")


def by_method_caller(thunk):
    class Called:
        def method(self):
            thunk()

    operator.methodcaller("method")(Called())


def by_many_arguments(thunk):
    def call(a, b=2, *rest, named, **others):
        thunk()

    call(1, *(2, 3), named=4, **{"other": 5})


def by_handling(thunk):
    try:
        raise ValueError
    except ValueError:
        thunk()
    finally:
        pass


def by_recursion(thunk, depth=7):
    if depth:
        by_recursion(thunk, depth - 1)
    else:
        thunk()


def over_several_lines(thunk):
    (
        plainly,
        by_lambda,
    )[0](
        thunk,
    )


WAYS = [function for name, function in sorted(globals().items()) if re.match("by_|over_|plainly", name)]
# Ways that allocate in hundreds of places by themselves: composed less often, because whoever walks the stacks must read
# each of them.
HEAVY = [by_task, by_loop_callback, by_import, by_database, by_dispatch, by_foreign_sort]
LIGHT = [way for way in WAYS if way not in HEAVY]


def composed(ways, sizes):
    """Calls the first way, which calls the second, and so on."""
    if ways:
        ways[0](lambda: composed(ways[1:], sizes))
    else:
        sample(sizes)


def deep(depth):
    if depth:
        deep(depth - 1)
    else:
        sample()


def through_vanishing_code(number):
    """Code that is gone once it has run, and whose place other code with the same names takes."""
    source = "def f(thunk):\n" + "    0\n" * number + "    thunk()\nf(thunk)"
    exec(source, {"thunk": lambda: sample()})


def work(count):
    """That many samples or a few more, then one that is deeper than any walk goes."""
    choice = random.Random(17)
    for sizes in (small_sizes, large_sizes):
        for way in WAYS:
            composed([way], sizes)
    for heavy in HEAVY * 5:
        composed([choice.choice(LIGHT), heavy, choice.choice(LIGHT)], large_sizes)
    while len(samples) < int(count):
        sizes = small_sizes if choice.random() < 0.4 else large_sizes
        composed([choice.choice(LIGHT) for _ in range(choice.choice([2, 2, 3, 4]))], sizes)
    lasting_samples = samples[:]
    for number in range(20):
        # Compiling allocates in many places.
        time.sleep(0.05)
        through_vanishing_code(number)
    vanishing = samples[len(lasting_samples) :]
    deep(200)
    return {"samples": lasting_samples, "vanishing": vanishing, "deep": samples[-1]}


threading.Thread(target=record, daemon=True).start()
protocol.serve(work=work)
