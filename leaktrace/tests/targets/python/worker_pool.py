"""A pool of workers that upload results. A property is meant to give each thread a client of its own, but the
`threading.local` that should remember it is a new one at each call, so every job makes another client; and a client stays
registered until the process exits."""

import atexit
import collections
import json
import queue
import threading
import time

import protocol

READ_BUFFER = 4096
WORKERS = 3
PAUSE = 0.005


class Client:
    """Of a storage service, say. Closes itself when the process exits, at the latest."""

    def __init__(self, address, buffer):
        self.address = address
        self.buffer = buffer
        atexit.register(self.close)

    def close(self):
        self.buffer = None

    def upload(self, text):
        view = memoryview(self.buffer)
        view[: len(text)] = text.encode()
        return len(text)


class Uploader:
    """What workers share."""

    def __init__(self, address):
        self.address = address
        self.recent = collections.deque(maxlen=100)

    @property
    def client(self):
        local = threading.local()
        if not hasattr(local, "client"):
            local.client = Client(self.address, bytearray(READ_BUFFER))  # mark: client
        return local.client

    def work(self, jobs):
        while True:
            job = jobs.get()
            text = json.dumps({"job": job, "result": [job * 0.5] * 20, "note": "n" * 100})
            sent = self.client.upload(text)
            self.recent.append((job, sent, text))


def feed(jobs):
    """Work comes in steadily."""
    job = 0
    while True:
        jobs.put(job)
        job += 1
        time.sleep(PAUSE)


jobs = queue.Queue(maxsize=100)
uploader = Uploader("storage.example:443")
threads = [threading.Thread(target=uploader.work, args=(jobs,), daemon=True) for _ in range(WORKERS)]
threads.append(threading.Thread(target=feed, args=(jobs,), daemon=True))
for thread in threads:
    thread.start()
protocol.serve(leaked=lambda: {"leaked": atexit._ncallbacks(), "lines": protocol.marked_lines(__file__)})
