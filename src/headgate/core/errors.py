"""What may go wrong, told as a sentence."""


class InputError(ValueError):
    """Bad input from a person: what was wrong, the value, what is allowed, what to do.

    The command line prints it as one sentence and exits with status 2.
    """


class LawBroken(AssertionError):  # noqa: N818 - a law is broken; "Error" would say less
    """An invariant did not hold after a fact. Never caught: stop, keep the log, replay it."""
