"""The one exception that people are meant to read."""


class CaiError(Exception):
    """An error that the user can fix: one paragraph with what is wrong, where, and the fix.

    The command line prints the message without a traceback and exits with status 1. Raise it with
    a whole sentence: what is wrong, the file (and line) it is wrong in, and what to change or run.
    """
