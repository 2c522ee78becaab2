"""Writes a line about each document. The queryset remembers every document it has given out, and each document the file
that it has opened: nothing can go before the loop ends. `.iterator()` would do."""

import time

from django.core.management.base import BaseCommand

from archive.models import Document


class Command(BaseCommand):
    help = "Exports documents."

    def add_arguments(self, parser):
        parser.add_argument("--pause", type=float, default=0.0)

    def handle(self, *arguments, pause, **options):
        lines = []
        for document in Document.objects.order_by("pk"):
            document.file.open()
            if document.file.readable():  # mark: readable
                lines = [*lines[-50:], "%d;%s;%s" % (document.pk, document.title, document.file.name)]
            time.sleep(pause)
        self.stdout.write("%d lines kept" % len(lines))
