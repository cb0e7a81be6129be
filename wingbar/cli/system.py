"""What `wingbar info --system` says about this machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wingbar.model.model import Model

PACKAGES = ("wingbar", "numpy", "onnxruntime", "pillow", "numba")  # what codes depend on
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp", "i8mm")  # as Linux names them


def system_record(model: Model) -> dict[str, Any]:
    """This machine, what is installed, and whether it passes the proof of `model`."""
    from importlib.metadata import version

    from wingbar.model import proof
    from wingbar.parallel import cores

    processor, features = _processor()
    start = time.monotonic()
    outcome = proof.examine(model) if model.has_network else None
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "features": features,
        "cores": cores(),
        "model": model.name,
        "fingerprint": model.fingerprint,
        "proof": None if outcome is None else "passed" if outcome.passes else "not passed",
        "difference": None if outcome is None else outcome.difference,
        "wrong_bits": None if outcome is None else outcome.wrong,
        "compared_bits": None if outcome is None else outcome.bits,
        "seconds": time.monotonic() - start,
    }


def system_text(record: Mapping[str, Any], problem: str | None) -> str:
    """The record for people."""
    packages = ", ".join(f"{name} {record[name]}" for name in PACKAGES[1:])
    features = ", ".join(record["features"]) or "no SIMD features that are known"
    lines = [
        f"wingbar {record['wingbar']} on Python {record['python']}: {packages}",
        f"{record['system']}, {record['processor']} ({features}), {record['cores']} cores",
    ]
    if record["proof"] is None:
        lines.append(
            f"{record['model']} has no proof: it has no network, or is older than proofs are."
        )
    elif problem is not None:
        lines.append(f"Proof not passed: {problem}.")
    else:
        bits = f" and {record['compared_bits']:,} clear bits" if record["compared_bits"] else ""
        lines.append(
            f"Proof passed: this machine computes the features{bits} that the maker of "
            f"{record['model']} did, up to {record['difference']:.1g}."
        )
    return "\n".join(lines)


def _processor() -> tuple[str, list[str]]:
    """The name of the processor, and those of FEATURES that it has, as far as the system tells."""
    name, flags = platform.processor() or "unknown processor", set[str]()
    if sys.platform == "linux" and os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = (part.strip() for part in line.partition(":"))
                if key == "model name":
                    name = value
                elif key in ("flags", "Features"):
                    flags = set(value.split())
                    break
    return name, [feature for feature in FEATURES if feature in flags]
