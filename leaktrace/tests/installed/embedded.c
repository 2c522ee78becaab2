// A program that embeds CPython: says "loaded" before the interpreter is set up and "ready" when it runs, and goes on at
// each line it reads. Names a variable of the library, so that a build at a fixed address has a copy of its own.
#include <Python.h>
#include <stdio.h>

int main(void)
{
    char line[16];
    PyTypeObject *volatile copied = &PyCode_Type;
    printf("loaded\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin) || copied == NULL)
        return 1;
    Py_InitializeEx(0);
    PyRun_SimpleString("import os\nos.write(1, b'ready\\n')\nos.read(0, 100)\n");
    Py_FinalizeEx();
    printf("finished\n");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) == NULL;
}
