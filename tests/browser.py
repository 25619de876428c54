"""A real headless chromium that does what a person does: presses keys and looks at the page.

It is driven through a pair of pipes by its own protocol (Chrome DevTools), so nothing has to be
installed and no port is open.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WAIT_S = 400
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
KEY_CODES |= {"Escape": 27, "Tab": 9, "Enter": 13}


class Browser:
    """One page in a browser of its own."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser something and return its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], WAIT_S)
            assert ready, "the browser does not answer"
            more = os.read(self._back, 1 << 20)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def open(self, address: str, *, width: int = 1280, height: int = 800) -> None:
        """Open an address in a window, or on a phone, of this size."""
        self.resize(width, height)
        self.call("Page.navigate", url=address)
        self.until(lambda: self.value("document.readyState") == "complete", "the page")

    def resize(self, width: int, height: int) -> None:
        """Give the page this many CSS pixels."""
        metrics = {"deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **metrics)

    def cut_off(self, offline: bool) -> None:
        """Take the network away from the page, or give it back."""
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=offline, **speed)

    def value(self, expression: str) -> Any:
        """Return what an expression is worth in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def colours(self, scheme: str) -> None:
        """Make the page believe that the person prefers "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong in the page, each in a few words.

        The test is skipped where axe-core is not installed.
        """
        found = importlib.util.find_spec("axe_core_python")
        if found is None or found.origin is None:
            pytest.skip("axe-core is not installed (pip install axe-core-python)")
        script = Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")
        self.value(f"{script}; 0")
        asked = {"expression": "axe.run()", "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **asked)["result"]["value"]
        assert answer["passes"]  # it did look
        return [
            f"{rule['id']} ({rule['impact']}): {node['html'][:200]}"
            for rule in answer["violations"]
            for node in rule["nodes"]
        ]

    def text(self, selector: str = "body") -> str:
        """Return the text that a person sees of an element."""
        found = self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = KEY_CODES.get(key) or ord(key.upper())
        typed = {} if key in KEY_CODES else {"text": key}
        if key == "Enter":
            typed = {"text": "\r"}
        same = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **same, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **same)

    def click(self, x: float, y: float) -> None:
        """Click at a place of the window, in CSS pixels."""
        same = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **same)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **same)

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < deadline, f"no {what}: {self.text()}"
            time.sleep(0.02)

    def shows(self, text: str, selector: str = "body") -> None:
        """Wait until an element shows a text."""
        self.until(lambda: text in self.text(selector), text)

    def picture(self) -> bytes:
        """Return what a person sees as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """Return what the page complained of: errors, and what its policy forbade."""
        self.value("1")
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in kinds]

    def addresses(self) -> list[str]:
        """Return the addresses of all that the page has asked for."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [str(event["params"]["request"]["url"]) for event in sent]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile in this folder; the test is skipped where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={folder}", "--hide-scrollbars"]
    command += ["--remote-debugging-pipe", "about:blank"]
    launch = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", launch, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=log,
            stderr=log,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(process, ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)  # by which it ends
        process.kill()
        process.wait()
