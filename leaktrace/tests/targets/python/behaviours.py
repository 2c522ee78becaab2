"""What programs do with memory: three leak, six do not. All take memory at the same pace at first, one block for each
request; what becomes of it differs. `behave.py` runs one of them; it may give the functions and variables other names."""

import collections
import json
import threading
import time

BLOCK = 16384
PACE = 50.0
# Python keeps small numbers anyway.
FIRST = 1000


class Behaviour:
    """Requests, as many a second as the load asks for. `scale` is how long growth lasts in those where it ends, seconds."""

    waves = False

    def __init__(self, scale):
        self.scale = scale
        self.entries = max(int(scale * PACE), 10)
        self.requests = FIRST
        self.began = None
        self.ended = None

    def rate(self, elapsed):
        """Requests a second: level, or up for one half of the scale and down for the other."""
        busy = int(elapsed / self.scale * 2.0) % 2 == 0
        return PACE * ((1.6 if busy else 0.4) if self.waves else 1.0)

    def growth_has_ended(self):
        if self.ended is None:
            self.ended = time.monotonic() - self.began

    def run(self):
        self.began = time.monotonic()
        due = self.began
        while True:
            self.innocent_work(self.requests)
            self.request(self.requests)
            self.requests += 1
            now = time.monotonic()
            # What a slow machine did not get done is not made up for.
            due = max(due + 1.0 / self.rate(now - self.began), now - 0.1)
            time.sleep(max(due - now, 0.0))

    def innocent_work(self, number):
        """What every request makes and drops."""
        text = json.dumps({"request": number, "values": [number * 0.5] * 4})
        return json.loads(text)["values"]


class LeakPerRequest(Behaviour):
    """An audit trail that nobody reads, under a load that is uneven."""

    waves = True

    def __init__(self, scale):
        super().__init__(scale)
        self.audit_trail = []

    def request(self, number):
        self.audit_trail.append(bytes(BLOCK))  # mark: LeakPerRequest


class LeakPerTime(Behaviour):
    """A thread that keeps what it measures, whatever the load."""

    waves = True

    def __init__(self, scale):
        super().__init__(scale)
        self.samples = []
        threading.Thread(target=self.measure, daemon=True).start()

    def measure(self):
        while True:
            time.sleep(1.0 / PACE)
            if self.began is not None:
                self.samples.append(bytes(BLOCK))  # mark: LeakPerTime

    def request(self, number):
        pass


class LeakAmongChurn(Behaviour):
    """Messages wait in a queue for a while; one in four is kept in the index for ever."""

    def __init__(self, scale):
        super().__init__(scale)
        self.queue = collections.deque(maxlen=int(PACE))
        self.index = []

    def request(self, number):
        for part in range(2):
            message = bytes(BLOCK)  # mark: LeakAmongChurn
            self.queue.append(message)
        if number % 2 == 0:
            self.index.append(message)


class CacheThatFills(Behaviour):
    """Keeps the latest answers, so many of them."""

    def __init__(self, scale):
        super().__init__(scale)
        self.answers = collections.OrderedDict()

    def request(self, number):
        self.answers[number] = bytes(BLOCK)  # mark: CacheThatFills
        if len(self.answers) > self.entries:
            self.answers.popitem(last=False)
            self.growth_has_ended()


class WarmUp(Behaviour):
    """Loads what it needs, once."""

    def __init__(self, scale):
        super().__init__(scale)
        self.templates = {}

    def request(self, number):
        name = number % self.entries
        if name in self.templates:
            self.growth_has_ended()
        else:
            self.templates[name] = bytes(BLOCK)  # mark: WarmUp


class Sawtooth(Behaviour):
    """Collects a batch, hands it on, begins anew."""

    def __init__(self, scale):
        super().__init__(scale)
        self.batch = []

    def request(self, number):
        self.batch.append(bytes(BLOCK))  # mark: Sawtooth
        if len(self.batch) >= self.entries:
            self.batch.clear()
            self.growth_has_ended()


class GrowthWithLoad(Behaviour):
    """Requests that are under way hold a buffer each, for a quarter of the scale; the load goes up and down."""

    waves = True

    def __init__(self, scale):
        super().__init__(scale)
        self.under_way = collections.deque()

    def request(self, number):
        now = time.monotonic()
        self.under_way.append((now + self.scale / 4.0, bytes(BLOCK)))  # mark: GrowthWithLoad
        while self.under_way[0][0] < now:
            self.under_way.popleft()
        if now > self.began + self.scale:
            self.growth_has_ended()


class Fragmentation(Behaviour):
    """Makes many small objects and drops all but one in a hundred: few are left, in as many pages."""

    def __init__(self, scale):
        super().__init__(scale)
        self.rows = []

    def request(self, number):
        if number < FIRST + self.entries:
            self.rows.extend([bytes(380 + part) for part in range(40)])  # mark: Fragmentation
        elif number == FIRST + self.entries:
            self.rows = self.rows[::100]
            self.growth_has_ended()


class ConnectionPool(Behaviour):
    """Opens connections as they are needed, up to so many, and replaces the oldest now and then. To a tracer that came late,
    growth has ended when each has been replaced."""

    def __init__(self, scale):
        super().__init__(scale)
        self.connections = collections.deque()
        self.replaced = 0

    def connect(self):
        self.connections.append(bytes(BLOCK))  # mark: ConnectionPool

    def request(self, number):
        if len(self.connections) < self.entries // 2:
            self.connect()
        elif number % 2 == 0:
            self.connections.popleft()
            self.connect()
            self.replaced += 1
        if self.replaced > self.entries // 2:
            self.growth_has_ended()
