"""The one exception that means: what was asked for, not the program, is at fault."""


class UsageError(ValueError):
    """Says which flag, config key or file is wrong, what was found and how to mend it."""

    def __init__(self, message: str):
        super().__init__(as_text(message))


def as_text(name: str) -> str:
    """With escapes for bytes that are no text, as names of files hold: no screen takes them."""
    return name.encode(errors="backslashreplace").decode()
