"""Coming back: go on with an output on the cluster where it was begun."""

from __future__ import annotations

from geoscale.cli.interrupt import interruptible
from geoscale.cli.models import AsJson
from geoscale.cli.progress import show_progress
from geoscale.cli.say import say
from geoscale.cli.work import Cluster, OutArg, Trust, choose_profile, end, open_client


def attach(
    output: OutArg,
    cluster: Cluster = None,
    trust_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an output whose command was lost, on the cluster that it left behind.

    The cluster is found by what is noted beside the output, and asked for with the same
    variables of the environment; --cluster names another. Finished blocks are kept.
    """
    from geoscale import api
    from geoscale.attaching import find_cluster
    from geoscale.engine.stopping import Stop
    from geoscale.outputs import load_begun

    stop = Stop()
    with interruptible("interrupted; the same command goes on", stop):
        plan, url = load_begun(output)
        profile = choose_profile(cluster, None) or find_cluster(output)
        say(plan, err=as_json)
        say(f"  output   {output}\n", err=as_json)
        with (
            open_client(profile, plan.in_flight) as client,
            show_progress(err=as_json) as progress,
        ):
            report = api.run(
                plan,
                url,
                client=client,
                trust_code=trust_code,
                progress=progress,
                stop=stop,
            )
    end(report, as_json)
