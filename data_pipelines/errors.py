"""The one exception that means: the data, not the program, is at fault."""


class DataError(ValueError):
    """Says which file, folder or config key is wrong, what was found and how to mend it."""
