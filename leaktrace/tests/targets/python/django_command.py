"""Runs the command `export_documents` of the application `archive` on a database with many documents, as manage.py
would: `django_command.py DOCUMENTS PAUSE`, the pause between two documents in seconds."""

import gc
import io
import sys
import threading

import django
from django.conf import settings
from django.core.management import call_command

import protocol

BYTES = 6000

settings.configure(
    INSTALLED_APPS=["archive"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:archive?mode=memory&cache=shared"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

import archive.management.commands.export_documents as export
import archive.storage
from archive.models import Content, Document


def fill(documents):
    call_command("migrate", run_syncdb=True, verbosity=0)
    names = ["document-%d.pdf" % number for number in range(documents)]
    Content.objects.bulk_create([Content(name=name, content=b"%PDF" * (BYTES // 4)) for name in names])
    Document.objects.bulk_create([Document(title="Report " + name, file=name) for name in names])


def run():
    """Exports in a thread of its own, so that the program can still be asked."""
    arguments = {"pause": float(sys.argv[2]), "stdout": io.StringIO()}
    threading.Thread(target=call_command, args=("export_documents",), kwargs=arguments, daemon=True).start()
    return True


def leaked():
    """Files that are open, counted at the end: the collector looks at every object."""
    opened = sum(type(thing) is archive.storage.DatabaseFile for thing in gc.get_objects())
    marked = {**protocol.marked_lines(archive.storage.__file__), **protocol.marked_lines(export.__file__)}
    return {"leaked": opened, "lines": marked}


fill(int(sys.argv[1]))
protocol.serve(go=run, leaked=leaked)
