"""The one exception that means: what was asked for, not the program, is at fault."""

import re

_NO_TEXT = re.compile("[\ud800-\udfff]")


class UsageError(ValueError):
    """Says which flag, config key or file is wrong, what was found and how to mend it."""

    def __init__(self, message: str):
        super().__init__(as_text(message))


def as_text(name: str, refused: re.Pattern[str] = _NO_TEXT) -> str:
    """With %FC and its like for bytes that are no text, as names of files hold: no screen takes
    them."""
    return refused.sub(lambda found: f"%{ord(found[0]) & 255:02X}", name)
