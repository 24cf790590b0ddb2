"""A headless Chromium, spoken to over a pipe (DevTools protocol) with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
]
# What DevTools answers when a page goes away under a question.
LEFT = ("navigated or closed", "context was destroyed", "Cannot find default execution context")


class PageLeft(RuntimeError):
    """The page was left while it was asked."""


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page: `open` a file, `evaluate` JavaScript, read what went wrong."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900) -> None:
        read_commands, self._write = os.pipe()
        self._read, write_answers = os.pipe()

        def pipes() -> None:  # the protocol's pipe is descriptors 3 and 4
            commands, answers = os.dup(read_commands), os.dup(write_answers)
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        quiet: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        command = [str(find_chromium()), *flags]
        self._process = subprocess.Popen(command, close_fds=False, preexec_fn=pipes, **quiet)
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._count, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that arrive meanwhile are noted."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    left = any(words in answer["error"]["message"] for words in LEFT)
                    raise (PageLeft if left else RuntimeError)(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            if not part:
                raise RuntimeError("Chromium ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        what, told = event.get("method"), event.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:900])
        elif what == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(told["args"])[:500])
        elif what == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif what == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, url: str, *, width: int = 1200, height: int = 900, seconds: float = 60) -> None:
        """Load a page and wait until its plots are drawn (those that the page wants to draw now)."""
        self.errors, self.requests = [], []
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=url)
        drawn = """location.href === TARGET && document.readyState === "complete" &&
          [...document.querySelectorAll(".plot[data-drawn]")].every(div => div.querySelector(".main-svg"))"""
        self.wait(drawn.replace("TARGET", json.dumps(url)), seconds)
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 200)))")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Until the JavaScript expression is true; TimeoutError names it otherwise. The page may be left meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.evaluate(condition):
                    return
            except PageLeft:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"after {seconds} s still not: {condition}; errors: {self.errors}")

    def evaluate(self, expression: str) -> Any:
        told = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", **told)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, top: int = 0, height: int | None = None) -> None:
        """A PNG of the page from `top`, `height` px of it or all of it."""
        size = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top, "width": size[0], "height": height or size[1] - top, "scale": 1}
        told = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        try:
            self._session = ""
            self.send("Browser.close")
        except (RuntimeError, OSError):
            self._process.kill()
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)
