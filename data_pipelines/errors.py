"""The one exception that means: the data, not the program, is at fault."""

from multimix_jax.errors import UsageError


def shown(text: str) -> str:
    """The beginning of a text from a file, which may hold anything, on one line of a message."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200]
    )


class DataError(UsageError):
    """Says which file, folder or config key is wrong, what was found and how to mend it."""
