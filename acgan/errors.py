"""Errors that a user can mend."""


class InputError(ValueError):
    """Input that cannot be used: the message is one sentence that says what to do.

    Every command ends with exit code 2 on it, before any long work starts.
    """
