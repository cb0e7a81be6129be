from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features

from wingbar.hamming import codes, kernels
from wingbar.hamming.codes import Codes

HAS_AVX512 = get_host_cpu_features().get("avx512f", False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cpu",
    [
        "generic",
        pytest.param(
            "haswell", marks=pytest.mark.skipif(not HAS_AVX512, reason="as all other tests here")
        ),
    ],
)
def test_cpus_without_wide_vectors_find_the_same(cpu: str, tmp_path: Path) -> None:
    """Compare the loops compiled for a CPU without AVX at all, and for one without AVX-512, with
    numpy."""
    script = (
        "import numpy as np\nfrom wingbar.hamming import codes\n"
        "p = np.random.default_rng(0).integers(0, 2**40, 60_000, dtype=np.uint64)[:, None]\n"
        "for b in (30, 40):\n"
        "    c = codes.Codes(p & np.uint64(2**b - 1), b, planes=True)\n"
        "    for path in ('auto', 'words', 'planes'):\n"
        "        for i in range(5):\n            q = p[i : i + 1] & np.uint64(2**b - 1)\n"
        "            assert np.array_equal(c.nearest(q, 50, path=path)[0].ids, c.nearest(q, 50, "
        "path='numpy')[0].ids)\n"
    )
    compiled_for = {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **compiled_for})


def test_warming_up_compiles_once() -> None:
    codes.warm_up(48)
    assert codes.warm_up(48) < 1.0


@pytest.mark.parametrize("k", [1, 100, 3000])
def test_the_likely_bound_is_that_of_an_even_sample(k: int) -> None:
    rng = np.random.default_rng(k)
    part = Codes(codes.pack(rng.random((140_000, 40)) < 0.5), 40, compiled=True)._parts[0]
    query = part.table.unique[17:18]
    found = kernels._likely_bound(part.table, query, k)
    groups = kernels.SAMPLE_SIZE // 64
    firsts = np.arange(groups) * (part.size // groups)
    sample = part.table.unique[(firsts[:, None] + np.arange(64)).ravel()]
    within = np.bincount(np.bitwise_count(sample ^ query), minlength=41).cumsum()
    expected = k * len(sample) / part.size
    assert found == np.searchsorted(within, expected + 3 * np.sqrt(expected) + 2)


def test_few_allowed_rows_are_found_from_distance_0_on() -> None:
    rng = np.random.default_rng(0)
    packed = codes.pack(rng.random((5000, 40)) < 0.5)
    packed[[7, 90]] = packed[11]
    packed[30] = packed[11] ^ np.uint64(1)
    few = Codes(packed, 40, compiled=True)
    [found] = few.nearest(packed[11:12], 4, allowed=few.only(np.array([7, 11, 30, 90, 400])))
    assert found.ids[:4].tolist() == [7, 11, 90, 30]
    assert found.distances[:4].tolist() == [0, 0, 0, 1]
