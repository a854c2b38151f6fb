"""Hosts: which addresses only this machine reaches."""

from __future__ import annotations

import ipaddress

HERE = "127.0.0.1"
"""Address that only this machine can reach."""


def is_here(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    Parameters
    ----------
    host : str
        Name or number; a name other than ``localhost`` counts as elsewhere.

    Examples
    --------
    >>> is_here("127.0.0.1"), is_here("::1"), is_here("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
