"""Settings of a Dask Gateway on loopback, whose workers have their own environment.

What differs between two of them is in the environment: ports, folder, interpreter.
"""

import os

from dask_gateway_server.auth import (
    SimpleAuthenticator,
    User,
    unauthorized,
)
from dask_gateway_server.options import Float, Integer, Mapping, Options

FOLDER = os.environ["GW_FOLDER"]
START = os.environ["GW_START"].split()


class Both(SimpleAuthenticator):
    """A password, as the gateway knows it, or an API key, as proxies do."""

    async def authenticate(self, request):
        given = request.headers.get("Authorization", "")
        if given.startswith("Bearer "):
            if given != f"Bearer {os.environ['GW_KEY']}":
                raise unauthorized("Bearer")
            return User("alice")
        return await super().authenticate(request)


def choose(options, user):
    return {
        "worker_cores": options.worker_cores,
        "worker_memory": int(options.worker_memory * 2**30),
        "environment": options.environment,
    }


c.DaskGateway.address = f"127.0.0.1:{os.environ['GW_API_PORT']}"  # noqa: F821
c.Proxy.address = f"127.0.0.1:{os.environ['GW_PORT']}"  # noqa: F821
c.DaskGateway.backend_class = (  # noqa: F821
    "dask_gateway_server.backends.local.UnsafeLocalBackend"
)
c.DaskGateway.authenticator_class = Both  # noqa: F821
c.SimpleAuthenticator.password = os.environ["GW_PASSWORD"]  # noqa: F821
c.UnsafeLocalBackend.clusters_directory = f"{FOLDER}/clusters"  # noqa: F821
c.DBBackendBase.cluster_heartbeat_period = 2  # noqa: F821
# the commands that it has by default are gone from distributed
c.ClusterConfig.scheduler_cmd = [*START, "scheduler"]  # noqa: F821
c.ClusterConfig.worker_cmd = [*START, "worker"]  # noqa: F821
c.ClusterConfig.scheduler_memory = "1 G"  # noqa: F821
c.ClusterConfig.idle_timeout = 300  # noqa: F821
c.ClusterConfig.adaptive_period = 1  # noqa: F821
c.ClusterConfig.cluster_max_workers = 3  # noqa: F821
c.Backend.cluster_options = Options(  # noqa: F821
    Integer("worker_cores", default=1, min=1, max=2),
    Float("worker_memory", default=2, min=0.5, max=8),
    Mapping("environment", default={}),
    handler=choose,
)
