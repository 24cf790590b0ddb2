"""What a reader trips over, looked for in every page of a report; a line a page:

    python -m crosslens.tests.helpers.report_checks DIR

Pictures that are stretched, words outside their figure, captions that name what is not drawn, pages that are too long,
what is lost on paper or on a phone, claims without their control, messages, requests, faults of accessibility.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .chromium import Browser

WIDE, TALL_SCREEN, PHONE, PAPER = 1400, 1000, 390, 680  # px; an A4 page between its margins
TALLEST, LATEST, OPEN, LEAST = 4500, 900, 4, 200  # px of a page, px of the first figure's top, figures, px of a plot
SCRIPT = Path(__file__).with_suffix(".js").read_text("utf-8")
OWN = ("file:", "data:", "blob:", "about:")


def faults(browser: Browser, page: Path, *, whole: bool = True) -> list[str]:
    """What is wrong with one page: nothing, or a line each. whole: look at it on a phone, on paper and with axe too."""
    browser.open(f"{page.as_uri()}?all", width=WIDE, height=TALL_SCREEN)
    ask = f"(() => {{ {SCRIPT} return [%s]; }})()"
    form = f"...faultsOfDrawing(), ...faultsOfForm({TALLEST}, {OPEN}, {LATEST})"
    seen = "...faultsOfPictures(), ...faultsOfText(), ...faultsOfCaptions(), ...faultsOfClaims()"
    found: list[str] = browser.evaluate(ask % f"{form}, {seen}")
    if whole:
        heights = browser.evaluate(ask % "plotHeights()")[0]
        found += _on_a_phone(browser, ask, heights) + _on_paper(browser, ask)
    found += [f"message: {error[:160]}" for error in browser.errors]
    found += [f"accessibility: {fault}" for fault in (_of_accessibility(browser) if whole else [])]
    return found + [f"asks for {url}" for url in browser.requests if not url.startswith(OWN)]


def _of_accessibility(browser: Browser) -> list[str]:
    """Serious faults that axe finds, where it is installed. It comes last: it would look at each of the thousands of
    elements of the drawings, and is asked without them.
    """
    axe = find_spec("axe_core_python")
    if axe is None or axe.origin is None:
        return []
    browser.evaluate("document.querySelectorAll('.main-svg, .modebar-container').forEach(part => part.remove()); 0")
    browser.evaluate(Path(axe.origin).with_name("axe.min.js").read_text("utf-8") + "; 0")
    run = "axe.run({ resultTypes: ['violations'] })"
    told = "`${one.id}: ${one.nodes[0].html.slice(0, 90)}`"
    serious = "run.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
    return browser.evaluate(f"{run}.then(run => {serious}.map(one => {told}))")


def _on_paper(browser: Browser, ask: str) -> list[str]:
    """The page as it is printed; it does not come back from there."""
    browser.send("Emulation.setEmulatedMedia", media="print")
    _resize(browser, PAPER)
    try:
        browser.evaluate("window.dispatchEvent(new Event('beforeprint')); 0")
        _settle(browser)
        return browser.evaluate(ask % f"...faultsOfPrint({PAPER})")
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")


def _on_a_phone(browser: Browser, ask: str, wide: dict[str, float]) -> list[str]:
    """A plot keeps LEAST px, or the height that it has on a wide screen; the page is not wider than the phone."""
    _resize(browser, PHONE)
    _settle(browser)
    heights: dict[str, float] = browser.evaluate(ask % "plotHeights()")[0]
    small = [(name, px) for name, px in heights.items() if px < min(LEAST, 0.9 * wide.get(name, LEAST))]
    found = [f"{name}: the plot is {px:.0f} px high on a phone" for name, px in small]
    width = browser.evaluate("document.documentElement.scrollWidth")
    return found + ([f"{width} px wide on a phone"] if width > PHONE else [])


def _resize(browser: Browser, width: int) -> None:
    size = {"width": width, "height": TALL_SCREEN, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.send("Emulation.setDeviceMetricsOverride", **size)


def _settle(browser: Browser) -> None:
    """Figures follow the window's width a moment later."""
    browser.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done), 400))")


def of_report(out: Path) -> dict[str, list[str]]:
    """Every page of a report by name, with its faults."""
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            return {page.name: faults(browser, page) for page in sorted(Path(out).glob("*.html"))}
        finally:
            browser.close()


def main() -> None:
    """A line a page; exit code 1 where one has faults."""
    told = of_report(Path(sys.argv[1]))
    for name, found in told.items():
        print(f"{name}: {'; '.join(found) or 'nothing found'}")
    sys.exit(any(told.values()))


if __name__ == "__main__":
    main()
