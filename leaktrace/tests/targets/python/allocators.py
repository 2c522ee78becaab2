"""Allocates on command, and all the time in several threads, and says whether everything it was given holds what it put
there."""

import itertools
import threading

import protocol

letter = b"x"
stopping = False
rounds = [0, 0, 0, 0]
wrong = []
kept = []


def allocate(n):
    """Makes n objects of one block of 133 bytes each; the interpreter has no free list for them."""
    made = None
    for _ in itertools.repeat(None, int(n)):
        made = letter * 100
    return {"made": int(n), "bytes": len(made)}


def keep(n):
    """The same, kept for good."""
    kept.append([letter * 100 for _ in itertools.repeat(None, int(n))])
    return {"made": int(n), "bytes": len(kept[-1][0])}


def churn(number):
    box = {}
    while not stopping:
        for i in range(200):
            box[i % 50] = (bytes([i]) * (i * 5 + 1), [i] * (i % 7), {i: str(i)})
            text, items, mapping = box[i * 7 % 50] if i * 7 % 50 in box else box[i % 50]
            if text != text[:1] * len(text) or len(set(items)) > 1 or len(mapping) != 1:
                wrong.append(repr((text, items, mapping)))
        rounds[number] += 1


threads = []


def start():
    threads.extend(threading.Thread(target=churn, args=(number,)) for number in range(len(rounds)))
    for thread in threads:
        thread.start()
    return {"threads": len(threads)}


def progress():
    return {"rounds": sum(rounds), "wrong": len(wrong)}


def stop():
    global stopping
    stopping = True
    for thread in threads:
        thread.join()
    return progress()


protocol.serve(allocate=allocate, keep=keep, start=start, progress=progress, stop=stop)
