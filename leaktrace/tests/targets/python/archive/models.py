"""Documents with a file each."""

from django.db import models

from archive.storage import DatabaseStorage


class Content(models.Model):
    name = models.CharField(max_length=100, primary_key=True)
    content = models.BinaryField()


class Document(models.Model):
    title = models.CharField(max_length=200)
    file = models.FileField(storage=DatabaseStorage())
