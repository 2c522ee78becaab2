"""What gunicorn calls in each worker: it begins its account, and waits where that is asked for."""

import os
import time

import orders


def post_fork(server, worker):
    directory = os.environ["ACCOUNTS"]
    orders.begin_account(os.path.join(directory, "%d.account" % os.getpid()))
    while os.path.exists(os.path.join(directory, "hold")):
        if os.path.exists(os.path.join(directory, "%d.go" % os.getpid())):
            break
        worker.notify()
        time.sleep(0.01)
