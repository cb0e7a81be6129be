"""What strangers sent, as text for a log: it can neither move a terminal's cursor nor pose as
another line."""

from __future__ import annotations

import traceback

from wingbar.errors import printable


def in_log(text: object) -> str:
    """A text on one line, with every character that cannot be shown as an escape such as \\x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in printable(text)
    )


def traceback_in_log(error: BaseException) -> str:
    """The traceback of an exception, its lines indented and each as `in_log`."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "\n".join(f"    {in_log(line)}" for line in lines)
