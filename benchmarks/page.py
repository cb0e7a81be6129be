"""How soon the page shows results, and how smoothly many of them scroll, in headless Chromium.

    python benchmarks/page.py photos.wb [--searches 20] [--results 10000] [--json]

`first_results_ms` is the time from the last byte of the server's answer to the frame in which its
cards are in the page; `first_row_ms` that to the frame in which the pictures of the first row are
loaded too. For scrolling, as many results as there are (up to --results) are loaded, then the page
is scrolled by 40 pixels a frame for 300 frames, as a hand on a wheel does.

Headless Chromium draws with the CPU, which the server and this script share, so times by the clock
(those two, `frames_per_second`, `dropped_frames` and `long_tasks`, which take over 50 ms) mean
something on a quiet machine only. What is called work is processor time of the page's main thread,
whatever else runs: scripts, styles, layout, and `all` with painting; of 16.7 ms that a frame has at
60 a second. Drawing comes on top, in other threads, or on a graphics card; `browser_ms` is the
processor time of all processes of the browser, with drawing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.screenshots import serving

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

FRAMES = 300
PATIENCE = 20  # seconds after which nothing more is expected of the page

# Resolves to the times between the end of the answer to a search and two frames.
SEARCH = """async ([place, patience]) => {
  performance.clearResourceTimings();
  const grid = document.getElementById("grid");
  const end = performance.now() + 1000 * patience;
  const frame = () => new Promise((resolve, reject) => {
    if (performance.now() < end) requestAnimationFrame(resolve);
    else reject(new Error(`the page did not show the first row within ${patience} s`));
  });
  const before = location.href;
  document.querySelectorAll(".card")[place].querySelector(".hit").click();
  while (location.href === before) await frame();
  const isAnswer = (entry) => entry.name.endsWith("/api/search") && entry.responseEnd > 0;
  const answer = () => performance.getEntriesByType("resource").find(isAnswer);
  while (!answer() || !document.querySelector(".card .rank:not([hidden])")) await frame();
  await frame();
  const shown = performance.now() - answer().responseEnd;
  const top = Math.min(...[...grid.children].map((card) => card.offsetTop));
  const row = () => [...grid.querySelectorAll(".card")].filter((card) => card.offsetTop === top);
  const isLoaded = (img) => img.complete && img.naturalWidth > 0;
  const isDone = (card) => card.matches(".missing") || isLoaded(card.querySelector("img"));
  while (!row().every(isDone)) await frame();
  await frame();
  return [shown, performance.now() - answer().responseEnd];
}"""

SCROLL = """async (frames) => {
  const times = [];
  let longTasks = 0;
  const observer = new PerformanceObserver((list) => { longTasks += list.getEntries().length; });
  observer.observe({ type: "longtask" });
  for (let i = 0; i < frames; i++) {
    times.push(await new Promise(requestAnimationFrame));
    scrollBy({ top: 40, behavior: "instant" });
  }
  observer.disconnect();
  return [times.slice(1).map((time, i) => time - times[i]), longTasks];
}"""


def searches(
    page: Page, session: CDPSession, whole: CDPSession, url: str, count: int
) -> dict[str, Any]:
    """Milliseconds of `count` searches, each from the start page."""
    shown, rows, work, browser = [], [], [], []
    for place in range(count):
        page.goto(url)
        page.wait_for_selector(".card")
        page.wait_for_timeout(500)  # thumbnails of the start page
        before, browser_before = _cost(session), _browser_ms(whole)
        first, row = page.evaluate(SEARCH, [place % 20, PATIENCE])
        work.append(_cost(session).minus(before).all)
        browser.append(_browser_ms(whole) - browser_before)
        shown.append(first)
        rows.append(row)
    return {
        "first_results_ms": _summary(shown),
        "first_row_ms": _summary(rows),
        "work_ms_per_search": _summary(work),
        "browser_ms_per_search": _summary(browser),
    }


def scrolling(
    page: Page, session: CDPSession, whole: CDPSession, url: str, results: int
) -> dict[str, Any]:
    """Frames while many results are scrolled, and what the page does in each."""
    page.goto(f"{url}/?id=1")
    page.wait_for_selector(".card")
    loaded, asked, before = _loaded(page), time.monotonic(), _cost(session)
    while loaded < results - 1:  # the query is not among its own results
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
        if _loaded(page) > loaded:
            loaded, asked = _loaded(page), time.monotonic()
        elif time.monotonic() - asked > PATIENCE:  # there are no more of them
            break
    loading = _cost(session).minus(before)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1000)
    before, browser_before = _cost(session), _browser_ms(whole)
    times, long_tasks = page.evaluate(SCROLL, FRAMES)
    cost, browser = _cost(session).minus(before), _browser_ms(whole) - browser_before
    return {
        "results": loaded,
        "cards_in_page": page.locator(".card").count(),
        "work_ms_to_load_them": loading.rounded(1),
        "work_ms_per_frame": cost.rounded(FRAMES),
        "browser_ms_per_frame": round(browser / FRAMES, 1),
        "long_tasks": long_tasks,
        "dropped_frames": sum(ms > 1.5 * 1000 / 60 for ms in times),
        "frames": FRAMES,
        "frames_per_second": round(1000 / statistics.mean(times), 1),
        "frame_ms": _summary(times),
    }


class Cost(NamedTuple):
    """Processor time of the page's main thread in milliseconds, whatever else runs.

    script, style, layout: for these.
    all: for everything, with painting and what passes pictures on to the compositor.
    """

    script: float
    style: float
    layout: float
    all: float

    def minus(self, before: Cost) -> Cost:
        return Cost(*(now - then for now, then in zip(self, before, strict=True)))

    def rounded(self, parts: int) -> dict[str, float]:
        return {name: round(ms / parts, 2) for name, ms in self._asdict().items()}


def _browser_ms(browser: CDPSession) -> float:
    """The processor time of all processes of the browser so far, in milliseconds."""
    processes = browser.send("SystemInfo.getProcessInfo")["processInfo"]
    return 1000 * float(sum(process["cpuTime"] for process in processes))


def _loaded(page: Page) -> int:
    """How many results the page has."""
    return int(page.get_attribute(".card", "aria-setsize") or 0)


def _cost(session: CDPSession) -> Cost:
    """The processor time of the page so far."""
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    metrics = session.send("Performance.getMetrics")["metrics"]
    found = {metric["name"]: 1000 * metric["value"] for metric in metrics}
    return Cost(*(found[f"{name}Duration"] for name in ("Script", "RecalcStyle", "Layout", "Task")))


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
    }


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with serving(args.index) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        # the page's policy forbids evaluating text, which functions here are
        context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
        page = context.new_page()
        session = context.new_cdp_session(page)
        whole = browser.new_browser_cdp_session()
        found = searches(page, session, whole, url, args.searches)
        found |= scrolling(page, session, whole, url, args.results)
        browser.close()
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        print(f"{name:22}", "   ".join(f"{part} {number:,}".strip() for part, number in parts))


if __name__ == "__main__":
    main()
