"""Show pictures inside a terminal that can, by the protocol of kitty, of iTerm2, or as sixels."""

from __future__ import annotations

import base64
import io
import os
import shutil
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wingbar.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from wingbar.images import Source

KINDS = ("auto", "never", "kitty", "iterm", "sixel")
HEIGHT = 120  # pixels of a picture
GAP = 6
LETTER_WIDTH = 9  # pixels of a column of a terminal that does not say how wide it is
SIXEL_COLOURS = 256


def protocol_of(environment: Mapping[str, str]) -> str:
    """The protocol that a terminal says it has by its environment: "kitty", "iterm", "sixel" or
    "never". Inside tmux and screen, which keep pictures back, it is "never"."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return "never"
    if "KITTY_WINDOW_ID" in environment or "kitty" in term or "ghostty" in (term + program).lower():
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if environment.get("KONSOLE_VERSION", "").rjust(6, "0") >= "220400":
        return "iterm"
    if program == "mintty" or term.split("-")[0] in ("foot", "mlterm", "contour"):
        return "sixel"
    return "never"


def strip_text(sources: Sequence[Source], kind: str, width: int = 0) -> str:
    """Pictures side by side, the first one apart as the query, as text for a terminal; one of KINDS
    but "auto". Empty for "never"; a picture that cannot be read is a grey square.

    width: of the terminal in pixels; 0 asks it.
    """
    if kind == "never":
        return ""
    return _ENCODERS[kind](strip(sources, width or _terminal_width())) + "\n"


def _terminal_width() -> int:
    """In pixels, as the terminal says, or else by its columns."""
    by_columns = shutil.get_terminal_size().columns * LETTER_WIDTH
    try:
        import fcntl
        import termios

        size = fcntl.ioctl(sys.stdout, termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError, ValueError):  # Windows; no terminal
        return by_columns
    return struct.unpack("4H", size)[2] or by_columns


def resolved(kind: str, is_terminal: bool) -> str:
    """One of KINDS without "auto": pictures are for terminals only."""
    if not is_terminal:
        return "never"
    return protocol_of(os.environ) if kind == "auto" else kind


def strip(sources: Sequence[Source], width: int) -> Image.Image:
    """One picture [h, at most `width`, 4] of small whole pictures side by side, of HEIGHT pixels
    each, in as many rows as they need; nothing between them, so that the terminal shows there."""
    from PIL import Image

    small = [_small(source) for source in sources]
    places, x, y, widest = [], 0, 0, 1
    for i, picture in enumerate(small):
        if x and x + picture.width > width:
            x, y = 0, y + HEIGHT + GAP
        places.append((x, y))
        widest = max(widest, min(width, x + picture.width))
        x += picture.width + (4 * GAP if i == 0 else GAP)
    sheet = Image.new("RGBA", (widest, y + HEIGHT))
    for picture, place in zip(small, places, strict=True):
        sheet.paste(picture, place)
    return sheet


def _small(source: Source) -> Image.Image:
    from PIL import Image

    from wingbar import images

    try:
        picture = Image.open(io.BytesIO(images.thumbnail(source, 2 * HEIGHT))).convert("RGB")
    except ImageError:
        return Image.new("RGB", (HEIGHT, HEIGHT), "grey")
    ratio = min(max(picture.width / picture.height, 0.4), 2.5)
    return picture.resize((round(HEIGHT * ratio), HEIGHT))


# -- what each protocol wants


def _kitty(picture: Image.Image) -> str:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol: a PNG in pieces of 4,096 letters."""
    data = base64.b64encode(_png(picture)).decode()
    pieces = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    texts = []
    for i, piece in enumerate(pieces):
        start = "a=T,f=100,q=2," if i == 0 else ""
        texts.append(f"\x1b_G{start}m={int(i + 1 < len(pieces))};{piece}\x1b\\")
    return "".join(texts)


def _iterm(picture: Image.Image) -> str:
    """https://iterm2.com/documentation-images.html: a whole file."""
    data = _png(picture)
    return f"\x1b]1337;File=inline=1;size={len(data)}:{base64.b64encode(data).decode()}\x07"


def _sixel(picture: Image.Image) -> str:
    """https://vt100.net/docs/vt3xx-gp/chapter14.html: bands of six rows, each drawn once for every
    colour in it; repeated letters as !COUNT LETTER. What is not drawn stays as it is."""
    import numpy as np
    from PIL import Image

    shown = picture.convert("RGB")
    colours = shown.quantize(
        SIXEL_COLOURS, method=Image.Quantize.MAXCOVERAGE
    )  # keeps colours of few pixels, too
    drawn = shown.quantize(palette=colours)  # mixes them, dot by dot
    palette = np.asarray(drawn.getpalette()).reshape(-1, 3)
    pixels = np.where(np.asarray(picture.getchannel("A")), np.asarray(drawn, np.int64), -1)
    height, width = pixels.shape
    used = [i for i in np.unique(pixels).tolist() if i >= 0]
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    for i in used:
        red, green, blue = (round(value / 2.55) for value in palette[i].tolist())
        parts.append(f"#{i};2;{red};{green};{blue}")
    bands = []
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        bits = 1 << np.arange(len(band))[:, None]
        there = [i for i in np.unique(band).tolist() if i >= 0]
        bands.append("$".join(f"#{i}{_runs(((band == i) * bits).sum(0) + 63)}" for i in there))
    return "".join([*parts, "-".join(bands), "\x1b\\"])


def _runs(letters: NDArray[np.int64]) -> str:
    """Letters [w], as their codes, with runs of more than three shortened."""
    import numpy as np

    starts = np.flatnonzero(np.diff(letters, prepend=-1))
    lengths = np.diff(starts, append=len(letters))
    return "".join(
        f"!{length}{chr(letter)}" if length > 3 else chr(letter) * length
        for letter, length in zip(letters[starts].tolist(), lengths.tolist(), strict=True)
    )


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


_ENCODERS: dict[str, Callable[[Image.Image], str]] = {
    "kitty": _kitty,
    "iterm": _iterm,
    "sixel": _sixel,
}
