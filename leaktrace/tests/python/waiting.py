"""A thread that waits in C, without the interpreter's lock, and allocates there as soon as it goes on."""
import ctypes
import json
import os
import sys
import threading

LENGTH = int(sys.argv[1])
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.getline.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
read_end, write_end = os.pipe()
stream = libc.fdopen(read_end, b"r")
line, room = ctypes.c_void_p(), ctypes.c_size_t()


def waiting():
    while libc.getline(ctypes.byref(line), ctypes.byref(room), stream) < LENGTH:
        pass


thread = threading.Thread(target=waiting)
thread.start()
os.write(write_end, b"short\n")
runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
print(json.dumps({"runtime": runtime, "waiting": id(waiting.__code__)}), flush=True)
sys.stdin.readline()
os.write(write_end, b"." * LENGTH + b"\n")
thread.join()
print(json.dumps({"room": room.value}), flush=True)
sys.stdin.readline()
