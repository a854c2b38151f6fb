"""The command line: the verbs of `geoscale.api` as words.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the process.

    Returns
    -------
    int
        Exit code: 0 complete, 1 a bug, 2 bad input, 3 blocks missing, 4 stopped,
        130 interrupted, 141 nobody reads the output.
    """
    from geoscale.cli.app import app
    from geoscale.cli.say import close_stdout

    args = list(sys.argv[1:] if argv is None else argv)
    try:
        app(args=args, prog_name="geoscale")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    else:
        code = 0
    return close_stdout(code)
