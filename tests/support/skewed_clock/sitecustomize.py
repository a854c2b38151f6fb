"""Makes the wall clock of a Python process wrong by `GEOSCALE_SKEW_S` seconds.

What Python asks `time` for is shifted: that is where Dask and geoscale look. Monotonic
clocks stay right, as they would. `datetime.now` stays right too: pandas does not bear
another class in its place, and under libfaketime, which shifts C code as well,
`time.sleep` of Python 3.11 fails. The one decision that rests on it, whether a signed
URL has expired, is made before a run.
"""

import os
import time

SHIFT = float(os.environ.get("GEOSCALE_SKEW_S", "0"))
_time, _time_ns = time.time, time.time_ns


def _shift_struct(real):
    return lambda seconds=None: real(time.time() if seconds is None else seconds)


time.time = lambda: _time() + SHIFT
time.time_ns = lambda: _time_ns() + round(SHIFT * 1e9)
time.gmtime, time.localtime = map(_shift_struct, (time.gmtime, time.localtime))
