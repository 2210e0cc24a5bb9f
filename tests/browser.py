"""A headless Chromium that tests drive: pages opened, keys pressed, what is on them read; by its DevTools protocol, through two pipes."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

_FOUND: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(_FOUND is None, reason="no Chromium is installed; Debian's package is chromium")
# The browser reads commands from descriptor 3 and writes answers to descriptor 4.
_IN, _OUT = 3, 4
_PATIENCE_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05
_OPTIONS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update", "--mute-audio"),
)


class Browser:
    """One browser, and what it is told and says."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to, self._read_from = write_to, read_from
        self._received = b""
        self._number = 0

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Make a call, and return its answer; what comes unasked meanwhile is left aside."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(self._write_to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            received = os.read(self._read_from, 1 << 20)
            assert received, "the browser has ended"
            self._received += received
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def open(self, url: str, *, width: int = 1200, height: int = 800, dark: bool = False) -> "Page":
        """Open a page in a profile of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        page.resize(width, height)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", session, features=scheme)
        self.call("Page.enable", session)
        self.call("Page.addScriptToEvaluateOnNewDocument", session, source=_KEEP_ERRORS)
        self.call("Page.navigate", session, url=url)
        return page


# What goes wrong on a page is kept, for `Page.errors`.
_KEEP_ERRORS: Final = """
globalThis.errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => errors.push(`policy: ${event.violatedDirective}`));
"""


class Page:
    """A page that is open."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def read(self, expression: str) -> Any:  # noqa: ANN401 - whatever the page says
        """Evaluate JavaScript on the page, and return what it is, as JSON has it."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:  # noqa: ANN401 - whatever the page says
        """Wait until an expression is true, and return what it is; fail, and say what the page says, when it is not for long."""
        deadline = time.monotonic() + _PATIENCE_S
        # While the page is loaded there may be nothing yet to read from.
        while not (found := self.read(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")):
            if time.monotonic() > deadline:
                text = self.read("document.body.innerText.slice(0, 2000)")
                raise AssertionError(f"never: {expression}; errors {self.errors}; the page says: {text}")
            time.sleep(_LOOK_EVERY_S)  # noqa: TID251 - another process gets there
        return found

    @property
    def errors(self) -> list[str]:
        """What has gone wrong on the page."""
        return list(self.read("globalThis.errors ?? ['no page']"))

    def text(self, selector: str) -> str:
        """Read the text of an element."""
        return str(self.read(f"document.querySelector({json.dumps(selector)}).textContent"))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: a letter, or a key's name such as Enter or Tab."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39}
        codes |= {"End": 35, "Home": 36, " ": 32}
        for key in keys:
            params: dict[str, object] = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
            if len(key) == 1 or key == "Enter":
                params["text"] = "\r" if key == "Enter" else key
            self._browser.call("Input.dispatchKeyEvent", self._session, type="keyDown", **params)
            params.pop("text", None)
            self._browser.call("Input.dispatchKeyEvent", self._session, type="keyUp", **params)

    def click(self, selector: str, *, x: float = 0.5, y: float = 0.5) -> None:
        """Click into an element, at a share of its width and height."""
        box = self.read(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); return e.getBoundingClientRect().toJSON() }})(document.querySelector({json.dumps(selector)}))"
        )
        at = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        self._browser.call("Input.dispatchMouseEvent", self._session, type="mouseMoved", **at)
        for kind in ("mousePressed", "mouseReleased"):
            self._browser.call("Input.dispatchMouseEvent", self._session, type=kind, button="left", clickCount=1, **at)

    def resize(self, width: int, height: int) -> None:
        """Make the window of another size."""
        size: dict[str, object] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._browser.call("Emulation.setDeviceMetricsOverride", self._session, **size)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG file."""
        path.write_bytes(base64.b64decode(self._browser.call("Page.captureScreenshot", self._session)["data"]))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    """Run a browser, with its profile in *directory*, for the length of a block."""
    assert _FOUND is not None
    to_read, write_to = os.pipe()
    read_from, to_write = os.pipe()

    def give_pipes() -> None:
        # Copies first: one may have the number that the other is to get.
        reads, writes = os.dup(to_read), os.dup(to_write)
        os.dup2(reads, _IN)
        os.dup2(writes, _OUT)

    process = subprocess.Popen(  # noqa: S603 - the system's own
        [_FOUND, *_OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={directory / 'profile'}", "about:blank"],
        pass_fds=(_IN, _OUT),
        preexec_fn=give_pipes,  # noqa: PLW1509 - no threads run beside a test that starts it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(write_to, read_from)
    finally:
        os.close(write_to)
        os.close(read_from)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_PATIENCE_S)
