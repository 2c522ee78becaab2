"""Uses memory in known amounts. `touch N`: N MiB more. `devour`: more and more, until somebody ends it."""

import protocol

kept = []


def touch(mib):
    kept.append(bytearray(b"x") * (int(mib) << 20))


def devour():
    while True:
        touch(1)


protocol.serve(touch=touch, devour=devour)
