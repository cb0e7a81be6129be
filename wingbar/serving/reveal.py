"""Show a file in the file manager of the server's own machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wingbar.errors import WingbarError

SECONDS = 5.0  # that a command may take before it is taken for the file manager itself
BUS = "org.freedesktop.FileManager1"


def commands(path: Path) -> list[Sequence[str]]:
    """The commands that show a file, the best one first; none where there is no desktop."""
    if sys.platform == "darwin":
        return [("open", "-R", str(path))]
    if sys.platform == "win32":
        return [("explorer", f"/select,{path}")]
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return []
    # a comma would end the text in the array, but a URI writes it as %2C
    selected = (
        *("dbus-send", "--session", "--print-reply", f"--dest={BUS}"),
        *(f"/{BUS.replace('.', '/')}", f"{BUS}.ShowItems"),
        *(f"array:string:{path.as_uri()}", "string:"),
    )
    there = [selected, ("xdg-open", str(path.parent))]
    return [command for command in there if shutil.which(command[0])]


def can_reveal() -> bool:
    """Whether this machine has a file manager to show files in."""
    return bool(commands(Path(os.path.abspath(os.sep))))


def reveal(path: Path) -> None:
    """Show a file in the file manager, by the first command that works. Raises WingbarError."""
    for command in commands(path):
        with suppress(OSError):
            running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                if running.wait(SECONDS) == 0 or sys.platform == "win32":  # explorer gives 1
                    return
            except subprocess.TimeoutExpired:
                return  # it is the file manager
    raise WingbarError("this machine has no file manager that shows a file: copy the path instead")
