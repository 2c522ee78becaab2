"""Code of every kind, and what Python itself says of it: name, file, and the line of each instruction."""

import ctypes
import functools
import os
import re
import sys
import types

import protocol

# Libraries in which every kind of statement stands.
LIBRARIES = ["argparse", "ast", "asyncio/base_events", "asyncio/tasks", "collections/__init__", "contextlib",
             "dataclasses", "decimal", "_pydecimal", "enum", "inspect", "json/decoder", "logging/__init__", "pdb",
             "pickle", "socket", "ssl", "subprocess", "tarfile", "threading", "typing", "unittest/mock"]

# Instructions of one code object that are compared.
MOST_INSTRUCTIONS = 4000

ADDR2LINE = ctypes.pythonapi.PyCode_Addr2Line
ADDR2LINE.argtypes = [ctypes.py_object, ctypes.c_int]

frames = []
kept = []


def shown(text, most):
    """As leaktrace is to show it: Python's own escapes for what is not printable."""
    spelled = "".join(c if c.isprintable() and c != "\\" else repr(c)[1:-1] for c in text[:most])
    return spelled if len(text) <= most else "%s[... %d characters]" % (spelled, len(text))


def described(code):
    """What leaktrace is to find."""
    name = getattr(code, "co_qualname", code.co_name)
    return {"code": id(code), "name": shown(name, 1024), "file": shown(code.co_filename, 4096)}


def here(value=None):
    """Notes the frame of the caller."""
    frame = sys._getframe(1)
    kept.append(frame.f_code)
    frames.append(dict(described(frame.f_code), instruction=frame.f_lasti, line=frame.f_lineno))
    return value


def plain():
    here()
    return (
        here(1),

        here(2),
    )


def outer(x):
    def inner(y):
        here(x)
        return lambda: here(y)
    inner(x)()
    here()


class Things:
    here()

    class Nested:
        here()

    def method(self):
        here()
        return [here(x) for x in range(2)], {here(x) for x in range(2)}, {here(x): 1 for x in range(2)}

    @staticmethod
    def generator():
        yield here()
        yield from (here(x) for x in range(2))

    @functools.lru_cache(None)
    def decorated(self):
        here()

    async def coroutine(self):
        here()

    async def asynchronous(self):
        yield here()

    def cleanup(self):
        try:
            with open(os.devnull):
                here()
                raise ValueError
        except ValueError as error:
            here(error)
        finally:
            here()


def drive(coroutine):
    try:
        coroutine.send(None)
    except (StopIteration, StopAsyncIteration):
        pass


class Name(str):
    """A file name that is no plain string."""


def odd_files():
    """Code whose file name is no usual one."""
    names = [b"/srv/\xff\xfe.py", "/srv/é.py", "/srv/Ā\u4e00.py", "/srv/\U0001f600.py", "/srv/a\nb\r\tc\x1b[31m.py",
             "C:\\srv\\a.py", "<string>", "", "/" + "long/" * 200_000 + "a.py", "/srv/\u202eyp.a", "x" * 4096, "y" * 4097,
             Name("/srv/derived.py"), "/srv/\ud800.py", "/srv/€\udc80.py"]
    for name in names:
        exec(compile("here()\n\n\ndef f():\n  here(); here()\nf()", os.fsdecode(name), "exec"), {"here": here})
    long = "n" * 3000
    exec("def %s(): here()\n%s()" % (long, long), {"here": here})
    here_with = types.FunctionType(plain.__code__.replace(co_filename=Name("/srv/replaced.py"), co_name="new"), globals())
    here_with()


def collect():
    """The frames of everything above."""
    plain()
    outer(3)
    things = Things()
    things.method()
    list(things.generator())
    things.decorated()
    things.cleanup()
    drive(things.coroutine())
    drive(things.asynchronous().__anext__())
    odd_files()
    re.sub("a", lambda match: here("b"), "aaa")
    sorted([2, 1], key=lambda x: here(x))
    return frames


def all_of(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_of(constant)


def lines():
    """Every code object of some libraries, and the line of each of its instructions."""
    found = []
    for library in LIBRARIES:
        file = os.path.join(os.path.dirname(os.__file__), library + ".py")
        if not os.path.exists(file):
            continue
        with open(file, encoding="utf-8") as source:
            module = compile(source.read(), file, "exec")
        kept.append(module)
        for code in all_of(module):
            end = min(len(code.co_code), MOST_INSTRUCTIONS)
            of = [ADDR2LINE(code, at) for at in range(-2, end, 2)]
            found.append(dict(described(code), lines=of))
    return found


def short_lived(count):
    """Code objects that `replace` puts others in the place of."""
    global dying
    dying = [compile("def dying_%d(): pass" % number, "/srv/dying_%d.py" % number, "exec") for number in range(int(count))]
    functions = [code.co_consts[0] for code in dying]
    return [dict(described(code), instruction=0, line=code.co_firstlineno) for code in dying + functions]


def replace():
    """Gives short-lived code back and makes other code, of the same shape and in the same lines."""
    count = len(dying)
    dying.clear()
    for number in range(count):
        kept.append(compile("def rising_%d(): pass" % number, "/srv/rising_%d.py" % number, "exec"))
    return count


protocol.serve(collect=collect, lines=lines, short_lived=short_lived, replace=replace)
