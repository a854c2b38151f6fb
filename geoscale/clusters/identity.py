"""Who asks a gateway: read from the environment, and kept nowhere."""

from __future__ import annotations

import getpass
import os
from typing import Any

from geoscale.clusters.others import GatewayProfile
from geoscale.errors import JobError, require

USER = "GEOSCALE_GATEWAY_USER"
"""Variable with the user's name; default: that of the system."""
PASSWORD = "GEOSCALE_GATEWAY_PASSWORD"  # noqa: S105  (the name of a variable)
"""Variable with the password of ``auth: basic``."""
TOKEN = "GEOSCALE_GATEWAY_TOKEN"  # noqa: S105  (the name of a variable)
"""Variable with the API key of ``auth: token``."""
HUB_TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105  (the name of a variable)
"""Variable with the token of ``auth: jupyterhub``; JupyterHub sets it."""


def make_auth(profile: GatewayProfile) -> Any:
    """Read from the environment who is asking.

    Parameters
    ----------
    profile : GatewayProfile
        Says how the gateway wants to know.

    Returns
    -------
    dask_gateway.auth.GatewayAuth
        Lives in this process only.

    Raises
    ------
    JobError
        If a variable is missing.
    """
    auth = require("dask_gateway.auth", extra="gateway")
    if profile.auth == "kerberos":
        require("kerberos", extra="gateway")
        return auth.KerberosAuth()
    variable = {"basic": PASSWORD, "token": TOKEN, "jupyterhub": HUB_TOKEN}
    secret = os.environ.get(variable[profile.auth])
    if not secret:
        raise JobError(
            f"{profile.address} asks who you are (`auth: {profile.auth}`), and "
            f"{variable[profile.auth]} is not set; set it in the environment: secrets "
            "do not belong into profiles"
        )
    if profile.auth == "basic":
        return auth.BasicAuth(os.environ.get(USER) or getpass.getuser(), secret)
    if profile.auth == "jupyterhub":
        return auth.JupyterHubAuth(secret)

    # in the way that proxies of APIs know
    headers = {"Authorization": f"Bearer {secret}"}
    give = {"pre_request": lambda *_: (headers, None)}
    return type("TokenAuth", (auth.GatewayAuth,), give)()
