"""Orders for a service, over and over: `load.py PORT CONNECTIONS PAUSE [once]`, the pause between two requests of a connection in
seconds. Connections stay open; with `once` each is for one request. `finish` ends them between two requests."""

import itertools
import json
import socket
import sys
import threading
import time

import protocol

port, connections, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
once = sys.argv[4:] == ["once"]
finished = threading.Event()
customers = itertools.count()


class Client(threading.Thread):
    """One connection; another one after a failure."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done = self.failed = 0
        self.failure = None

    def run(self):
        while not finished.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.order(connection)
            except (OSError, ValueError) as failure:
                self.failed += 1
                self.failure = repr(failure)
                time.sleep(0.05)

    def order(self, connection):
        while not finished.is_set():
            connection.sendall(order(next(customers)))
            answer = receive(connection)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise ValueError(answer[:100])
            self.done += 1
            if pause:
                time.sleep(pause)
            if once:
                break


def order(number):
    items = [{"article": (number + i) % 100, "amount": i + 1} for i in range(4)]
    body = json.dumps({"customer": "customer-%d" % (number % 1000), "items": items}).encode()
    head = "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head.encode() % len(body) + body


def receive(connection):
    """One answer, whole."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += some(connection)
    head, body = answer.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += some(connection)
    return head


def some(connection):
    received = connection.recv(65536)
    if not received:
        raise ValueError("the service closed the connection")
    return received


def count():
    """Requests so far."""
    failures = [client.failure for client in clients if client.failure]
    return {
        "done": sum(client.done for client in clients),
        "failed": sum(client.failed for client in clients),
        "failure": failures[0] if failures else None,
        "seconds": time.monotonic(),
    }


def finish():
    """No more requests; those under way are answered."""
    finished.set()
    for client in clients:
        client.join()
    return count()


clients = [Client() for _ in range(connections)]
for client in clients:
    client.start()
protocol.serve(count=count, finish=finish)
