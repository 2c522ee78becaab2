"""A Django application: documents, and the command that exports them."""
