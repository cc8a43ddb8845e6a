"""Chromium without a window, controlled through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --mute-audio"


class Chromium:
    """One page in a browser of its own; a context.

    Args:
        folder: for the profile.
        width: of the page in CSS pixels.
        height: of the page.
        dark: whether the page is asked for dark colours.

    Attributes:
        requests: addresses of all requests.
        errors: messages of uncaught exceptions and of the console.
    """

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._number, self._session = 0, ""
        (to_read, self._write), (self._read, to_write) = os.pipe(), os.pipe()
        command = f"exec {PATH} {_OPTIONS} --user-data-dir={folder} --remote-debugging-pipe 3<&{to_read} 4>&{to_write}"
        pipes = {"pass_fds": (to_read, to_write), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(["bash", "-c", command], **pipes)  # type: ignore[call-overload]
        os.close(to_read), os.close(to_write)
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write), os.close(self._read)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def run(self, expression: str) -> Any:
        """The value of an expression of the page, of a promise once it is kept."""
        options = {"returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, path: Path) -> None:
        """Show a file and wait until it is loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise((go) => document.readyState === 'complete' ? go() : addEventListener('load', go))")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            self._rest += os.read(self._read, 1 << 20)
        text, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(json.dumps(params)[:500])
