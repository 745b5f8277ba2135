"""ossia on a Ray cluster: replicas of `ossia serve`, behind Ray Serve's proxy.

    pip install ossia 'ray[serve]>=2.60'
    python recipes/ray_serve.py nano --replicas 2 --port 8000
    python recipes/ray_serve.py gpt-oss-20b --replicas 8 --gpus 1 --host 0.0.0.0 \
        --api-key-file keys.toml --store postgresql://... --secret-file secret

For who has a Ray cluster already; who has none is better off with deploy/compose.yaml. Takes what
`ossia serve` takes, and `--replicas`, `--gpus` and `--cpus` of each. Without a cluster
(`RAY_ADDRESS`), one is started on this machine. Requests with the same X-Session-ID reach the same
replica, so that the beginnings of a conversation are computed once. Replicas have no addresses of
their own: background runs and containers of code are found with that header only. Runs until
Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ossia.commands.main import parser as ossia_parser
from ossia.commands.options import parsed
from ossia.commands.serve import app_of
from ossia.commands.server.options import Options
from ossia.server import logs, tracing

LAST_WORDS = 10.0  # seconds beyond --drain in which Ray waits for a replica to end


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of a replica")
    parser.add_argument("--cpus", type=float, default=1, help="of a replica")
    args, rest = parser.parse_known_args(argv)
    given = parsed(ossia_parser(), ("serve", *rest))
    assert given is not None
    run(given[1], args)


def run(options: Options, args: argparse.Namespace) -> None:
    """Returns when it is stopped."""
    from ray import serve

    serve.start(http_options=_http(options))
    serve.run(deployment(options, args), name="ossia", blocking=True)


def _http(options: Options) -> Any:
    from ray.serve.config import HTTPOptions

    return HTTPOptions(host=options.access.host, port=options.access.port)


def deployment(options: Options, args: argparse.Namespace) -> Any:
    """What Ray runs. The application is made inside each replica, which loads the model."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    def application() -> Any:  # Ray takes functions here, and no `partial`
        logs.set_up()
        tracing.set_up()
        return app_of(options)

    sticky = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
    router: dict[str, Any] = {"request_router_class": sticky}
    deployed = serve.deployment(
        num_replicas=args.replicas,
        max_ongoing_requests=options.limits.max_queue,
        graceful_shutdown_timeout_s=options.limits.drain + LAST_WORDS,
        ray_actor_options={"num_gpus": args.gpus, "num_cpus": args.cpus},
        request_router_config=RequestRouterConfig(**router),
    )
    return deployed(serve.ingress(application)()).bind()


if __name__ == "__main__":
    main()
