"""Saying things: plain lines, JSON and errors; every URL without its secrets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import traceback
from typing import Any, NoReturn

import typer

from geoscale.errors import GeoscaleError
from geoscale.words import redact

BROKEN_PIPE = 141
"""Exit code where nobody reads what is written: 128 + SIGPIPE."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
_CONTROL = re.compile(
    r"(\x1b\[[0-9;]*m)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def say(text: object = "", *, err: bool = False) -> None:
    """Write one line or several, redacted; nothing in it moves the cursor.

    Names in metadata and paths are strangers' words: of what a terminal obeys, only
    colours pass.
    """
    plain = _CONTROL.sub(lambda found: found[1] or "\ufffd", redact(str(text)))
    typer.echo(plain, err=err)


def say_json(value: Any) -> None:
    """Write a value as JSON, redacted."""
    say(json.dumps(value, indent=2, default=str))


def style(text: str, **looks: Any) -> str:
    """Colour a text; where no terminal reads it, typer strips the colour."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, **looks)


def leave(code: int) -> NoReturn:
    """End the process now: a thread that hangs would be waited for without end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report_error(error: Exception, *, debug: bool) -> int:
    """Say on stderr what went wrong; return the exit code.

    Parameters
    ----------
    error : Exception
        What a command raised.
    debug : bool
        Whether the traceback is wanted.

    Returns
    -------
    int
        The error's own code; 1 for what nobody foresaw.
    """
    if debug:
        say("".join(traceback.format_exception(error)), err=True)
    ours = isinstance(error, GeoscaleError)
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    say(f"{style('error:', fg='red', bold=True)} {text}", err=True)
    if ours:
        return int(getattr(error, "exit_code", 2))
    if not debug:
        say("this was not foreseen; --debug shows where it happened", err=True)
    return 1


def close_stdout(code: int) -> int:
    """Flush stdout; where its reader has gone, end quietly.

    Parameters
    ----------
    code : int
        Exit code so far.

    Returns
    -------
    int
        `code`, or `BROKEN_PIPE`.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    except ValueError:  # closed already
        return code
    return code


def drop_stdout() -> None:
    """Send what is still to be written to nowhere, so that exit stays quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
