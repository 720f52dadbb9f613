"""The one exception that means: what was asked for, not the program, is at fault."""


class UsageError(ValueError):
    """Says which flag, config key or file is wrong, what was found and how to mend it."""
