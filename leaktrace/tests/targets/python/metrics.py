"""A metrics helper as services have them: measures how long something takes, and keeps every measurement for a page of
statistics that nobody has asked for yet. Nothing ever clears it."""

import collections
import contextlib
import time

from codetiming import Timer

timings = collections.defaultdict(list)


class Recorder:
    """Keeps a measurement, at most one in so many seconds; or so many at once, as if that many requests had come."""

    def __init__(self, every=0.0, each=1):
        self.every = every
        self.each = each
        self.due = 0.0

    def record(self, name, timer):
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self.every
        for _ in range(self.each):
            milliseconds = timer.last * 1000.0  # mark: floats
            timings[name].append(milliseconds)  # mark: storage

    @contextlib.contextmanager
    def timed(self, name):
        timer = Timer(logger=None)
        with timer:
            yield
        self.record(name, timer)
