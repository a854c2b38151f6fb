"""Calls in a process of their own: that one crashes or hangs is seen.

`python -m tests.support.sandbox MODULE:FUNCTION` answers a line of JSON with one.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10.0
STARTING_S = 60.0


class Sandbox:
    """A child that calls one function; it is replaced when it has died or hung."""

    def __init__(self, function: str, patience_s: float = PATIENCE_S) -> None:
        self._function = function
        self._patience_s = patience_s
        self._child: subprocess.Popen[bytes] | None = None
        self.started = 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, *args: Any) -> dict[str, Any]:
        """Call the function.

        ``{"ended": how}``: ``returned`` with ``value``; ``refused``: a GeoscaleError,
        with ``kind`` and ``text``; ``escaped``: another exception, with ``text``;
        ``died`` with ``signal``; ``hung``.
        """
        child = self._start() if self._child is None else self._child
        assert child.stdin is not None
        child.stdin.write(json.dumps(args).encode() + b"\n")
        child.stdin.flush()
        line = self._read(self._patience_s)
        if line is None:
            self._end()
            return {"ended": "hung"}
        if not line:
            code = child.wait()
            self._child = None
            return {"ended": "died", "signal": -code, "text": f"exit code {code}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sandbox", self._function],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._read(STARTING_S) == b"ready\n"
        self.started += 1
        return self._child

    def _read(self, patience: float) -> bytes | None:
        """One line; empty where the child has died, None where it says nothing."""
        assert self._child is not None
        assert self._child.stdout is not None
        found = b""
        while not found.endswith(b"\n"):
            ready, _, _ = select.select([self._child.stdout], [], [], patience)
            if not ready:
                return None
            part = os.read(self._child.stdout.fileno(), 2**20)
            if not part:
                return b""
            found += part
        return found

    def _end(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.communicate()
            self._child = None


def _answer(function: Any, args: list[Any]) -> dict[str, Any]:
    from geoscale.errors import GeoscaleError

    try:
        return {"ended": "returned", "value": function(*args)}
    except GeoscaleError as err:
        return {"ended": "refused", "kind": type(err).__name__, "text": str(err)}
    except BaseException:
        return {"ended": "escaped", "text": traceback.format_exc()[-2000:]}


def misbehave(how: str) -> None:
    """What the sandbox is there for, to test the sandbox."""
    from geoscale.errors import SourceError

    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(60)
    if how == "refuse":
        raise SourceError("as it should be")
    raise RuntimeError(how)


def main() -> None:
    faulthandler.enable()
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    # what libraries print must not come between the answers
    out = os.dup(1)
    os.dup2(2, 1)
    os.write(out, b"ready\n")
    for line in sys.stdin.buffer:
        answer = json.dumps(_answer(function, json.loads(line))).encode() + b"\n"
        while answer:
            answer = answer[os.write(out, answer) :]


if __name__ == "__main__":
    main()
