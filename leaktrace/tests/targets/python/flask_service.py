"""A Flask service that takes orders, with a leak in its metrics helper and innocent traffic beside it: a cache that is
bounded, sessions that end. Its argument says how many seconds pass between two leaked objects; 0 leaks with every request. A second
one says how many are leaked then: days in minutes."""

import collections
import functools
import gc
import logging
import sys
import threading
import time

import jsonschema
import waitress
from flask import Flask, jsonify, request

import metrics
import protocol

ARTICLES = 100
OPEN_SESSIONS = 50
SCHEMA = {
    "type": "object",
    "required": ["customer", "items"],
    "properties": {
        "customer": {"type": "string", "minLength": 1},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["article", "amount"],
                "properties": {
                    "article": {"type": "integer", "minimum": 0, "maximum": ARTICLES},
                    "amount": {"type": "integer", "minimum": 1},
                },
                "additionalProperties": False,
            },
        },
    },
}

app = Flask(__name__)
validator = jsonschema.Draft202012Validator(SCHEMA)
recorder = metrics.Recorder(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
sessions = collections.OrderedDict()
lock = threading.Lock()


@functools.lru_cache(maxsize=2 * ARTICLES)
def description(article):
    """Bounded: there are not more articles."""
    return {"article": article, "text": "Article number %d. " % article * 20}


def visit(customer):
    """Sessions end when newer ones need their place."""
    session = {"customer": customer, "token": "%032x" % hash(customer), "pages": [customer] * 20}
    with lock:
        sessions.pop(customer, None)
        sessions[customer] = session
        while len(sessions) > OPEN_SESSIONS:
            sessions.popitem(last=False)


@app.post("/orders")
def take_order():
    with recorder.timed("orders"):
        order = request.get_json()
        validator.validate(order)
        visit(order["customer"])
        return jsonify(items=[description(item["article"]) for item in order["items"]])


def collect(period):
    """What a day has behind it in its first minutes: full collections, and the interpreter's cache of methods, which holds the
    names it was asked for (a C extension that makes a new name for each call fills it for minutes)."""
    while True:
        time.sleep(period)
        gc.collect()
        sys._clear_type_cache()


def serve(server):
    threading.Thread(target=server.run, daemon=True).start()


def leaked():
    """Objects in the structure that nothing clears."""
    return {"leaked": sum(map(len, metrics.timings.values())), "lines": protocol.marked_lines(metrics.__file__)}


# It warns of every request that has to wait.
logging.getLogger("waitress.queue").setLevel(logging.ERROR)
server = waitress.create_server(app, host="127.0.0.1", port=0, threads=2)
serve(server)
if recorder.every > 0:
    threading.Thread(target=collect, args=(10.0,), daemon=True).start()
protocol.serve(port=lambda: int(server.effective_port), leaked=leaked)
