from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wingbar.cli import pictures


@pytest.fixture
def shown(tmp_path: Path) -> list[str]:
    """A red, a wide and a tall picture, and a file that is none."""
    for name, size, colour in (
        ("a", (40, 40), "red"),
        ("b", (90, 30), "lime"),
        ("c", (30, 60), "blue"),
    ):
        Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
    return [*(str(tmp_path / f"{name}.png") for name in "abc"), str(tmp_path / "lost.png")]


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "221203"}, "iterm"),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "200400"}, "never"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-256color"}, "never"),
        ({}, "never"),
        ({"TMUX": "x", "KITTY_WINDOW_ID": "1"}, "never"),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"}, "never"),
    ],
)
def test_what_a_terminal_can_do(environment: dict[str, str], protocol: str) -> None:
    assert pictures.protocol_of(environment) == protocol


def test_pictures_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"TERM": "foot"})
    assert pictures.resolved("auto", True) == "sixel"
    assert pictures.resolved("kitty", True) == "kitty"
    assert pictures.resolved("never", True) == "never"
    assert pictures.resolved("kitty", False) == "never"


def test_pictures_stand_side_by_side_and_go_on_in_a_new_row(shown: list[str]) -> None:
    row = np.asarray(pictures.strip(shown, 2000))
    assert row.shape[0] == pictures.HEIGHT
    assert np.abs(row[60, 60] - [255.0, 0, 0, 255]).max() <= 2  # thumbnails are JPEGs
    assert row[60, -60].tolist() == [128, 128, 128, 255]  # of the file that is none
    assert row[60, 120 + 3 * pictures.GAP, 3] == 0  # the query stands apart
    rows = np.asarray(pictures.strip(shown, 320))
    assert rows.shape[0] == 3 * pictures.HEIGHT + 2 * pictures.GAP
    assert rows.shape[1] <= 320


def test_kitty_and_iterm_get_the_picture(shown: list[str]) -> None:
    wanted = np.asarray(pictures.strip(shown, 900))
    kitty = pictures.strip_text(shown, "kitty", width=900)
    pieces = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", kitty)
    assert pieces[0][0].startswith("a=T,f=100")
    assert [keys[-1] for keys, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    assert all(len(data) <= 4096 for _, data in pieces)
    kept = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces))))
    np.testing.assert_array_equal(np.asarray(kept), wanted)
    iterm = pictures.strip_text(shown, "iterm", width=900)
    found = re.fullmatch("\x1b]1337;File=inline=1;size=([0-9]+):(.*)\x07\n", iterm)
    assert found is not None
    data = base64.b64decode(found[2])
    assert len(data) == int(found[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), wanted)
    assert pictures.strip_text(shown, "never") == ""


def decoded(sixel: str) -> NDArray[np.uint8]:
    """The picture that a terminal draws, letter by letter, where it draws."""
    width, height, body = re.fullmatch(  # type: ignore[union-attr]
        '\x1bP0;1q"1;1;([0-9]+);([0-9]+)(.*)\x1b\\\\\n', sixel
    ).groups()
    drawn = np.zeros((int(height) + 6, int(width), 4), np.uint8)
    colours: dict[int, list[int]] = {}
    x = y = colour = 0
    token = "#([0-9]+)(?:;2;([0-9]+);([0-9]+);([0-9]+))?|!([0-9]+)(.)|([$-])|([?-~])"
    for number, red, green, blue, count, again, move, letter in re.findall(token, body):
        if number and red:
            colours[int(number)] = [
                *(round(int(value) * 2.55) for value in (red, green, blue)),
                255,
            ]
        elif number:
            colour = int(number)
        elif move:
            x, y = 0, y + 6 * (move == "-")
        else:
            run = int(count or 1)
            for bit in range(6):
                if ord(again or letter) - 63 >> bit & 1:
                    drawn[y + bit, x : x + run] = colours[colour]
            x += run
    assert y + 6 >= int(height) > y  # a further line would move the text below away
    return drawn[: int(height)]


def test_sixels_draw_the_picture(shown: list[str]) -> None:
    drawn = decoded(pictures.strip_text(shown, "sixel", width=900))
    wanted = np.asarray(pictures.strip(shown, 900))
    assert drawn.shape == wanted.shape
    np.testing.assert_array_equal(drawn[..., 3], wanted[..., 3])
    assert np.abs(drawn.astype(int) - wanted).max() <= 4  # of colours in hundredths


def test_sixels_keep_many_colours(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 100, (120, 120, 3), dtype=np.uint8)
    pixels[:, :110, 0] += 100  # much red and a little orange on it
    pixels[40:52, 40:52] = [255, 140, 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    drawn = decoded(pictures.strip_text([str(tmp_path / "a.png")], "sixel", width=900))
    mean = drawn[42:50, 42:50, :3].mean((0, 1))
    assert np.abs(mean - [255, 140, 0]).max() < 12


def test_the_width_is_that_of_the_terminal(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import pty
    import struct
    import termios
    from fcntl import ioctl

    monkeypatch.setenv("COLUMNS", "100")
    assert pictures._terminal_width() == 100 * pictures.LETTER_WIDTH  # nobody knows better
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert pictures._terminal_width() == 100 * pictures.LETTER_WIDTH
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, 100, 320, 650))
        assert pictures._terminal_width() == 320
    os.close(ours)
