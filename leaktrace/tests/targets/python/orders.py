"""A WSGI application that takes orders: innocent traffic, and one object a request that nothing lets go of."""

import json
import os
import time

SIZE = 8000

kept = []
account = None


def flag(directory, name):
    """Says something to whoever looks for it."""
    with open(os.path.join(directory, name), "w"):
        pass


def begin_account(path):
    global account
    account = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    write_down()


def write_down():
    os.write(account, b"%d\n" % time.monotonic_ns())


def record():
    block = bytes(SIZE)  # mark: leak
    kept.append(block)  # mark: storage
    write_down()


def application(environ, start_response):
    order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    lines = [{"article": item["article"], "text": "Article number %d. " % item["article"] * 20} for item in order["items"]]
    record()
    answer = json.dumps({"items": lines}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
