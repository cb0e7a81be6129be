"""Run the command `wingbar` inside a test."""

from __future__ import annotations

import pytest

from wingbar.cli import main


def interrupted(*arguments: object, **options: object) -> None:
    """What takes the place of a function during which Ctrl-C is pressed."""
    raise KeyboardInterrupt


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `wingbar ARGUMENTS`, in this process."""
    code = main.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
