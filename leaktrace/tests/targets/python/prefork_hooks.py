"""What gunicorn calls for each worker: it may be one that is not recycled, it begins its account, and waits where that is asked
for."""

import os
import sys
import time

import orders


def pre_fork(server, worker):
    if os.path.exists(os.path.join(os.environ["ACCOUNTS"], "last")):
        worker.max_requests = sys.maxsize


def post_fork(server, worker):
    directory = os.environ["ACCOUNTS"]
    orders.begin_account(os.path.join(directory, "%d.account" % os.getpid()))
    while os.path.exists(os.path.join(directory, "hold")):
        if os.path.exists(os.path.join(directory, "%d.go" % os.getpid())):
            break
        worker.notify()
        time.sleep(0.01)
