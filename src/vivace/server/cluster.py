"""The Ray cluster beneath a server: started here for this machine, joined, or the one that KubeRay runs us in."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from vivace.core.bundle import open_bundle
from vivace.core.errors import MissingDependency, UsageError, VivaceError
from vivace.core.machine import cores
from vivace.engine.runner import Plan
from vivace.server.replicas import Replicas, Scale, alone, deployment
from vivace.server.service import Service, Settings

log = logging.getLogger(__name__)
STARTS = 3  # of a Ray of our own, at most
HEAD_SECONDS = 2.0  # between two looks at the head, and for its answer
FOREVER = 7 * 24 * 3600  # seconds that what runs goes on without a head; Ray's own 60 would end it all


class Cluster:
    """Makes replicas on a Ray that is running; see `cluster`. `head` is its address."""

    def __init__(self, head: str, scale: Scale, limit: int) -> None:
        self.head, self._scale, self._limit = head, scale, limit

    def speaker(self, model: str, path: Path, _: Plan) -> Replicas:
        from ray import serve

        plan = _plan(path, self._scale)
        application = f"vivace {model} {path.name}"
        target = deployment(path.name, path.resolve(), plan, self._scale, self._limit)
        return Replicas(
            application, path.name, plan, self._scale.start_seconds,
            deploy=partial(alone, partial(serve.run, target, name=application, route_prefix=None)),
            remove=partial(self._remove, application),
        )  # fmt: skip

    def _remove(self, application: str) -> None:
        from ray import serve

        if _answers(self.head):  # without a head, it would wait for one
            serve.delete(application)

    def watch(self, service: Service) -> threading.Event:
        """Tells the service of a head that is gone, and back, until the event is set."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(HEAD_SECONDS):
                problem = "" if _answers(self.head) else f"the Ray head at {self.head} is gone"
                if problem and not service.problem:
                    log.error("%s: replicas that run speak on, none that dies comes back; start a head again", problem)
                elif service.problem and not problem:
                    log.info("the Ray head at %s is back", self.head)
                service.problem = problem
                service.metrics.head.set(not problem)

        threading.Thread(target=look, daemon=True, name="vivace-head").start()
        return ended


@contextlib.contextmanager
def cluster(scale: Scale, settings: Settings, address: str = "") -> Iterator[Cluster]:
    """A Ray of our own, for this machine alone, or the one at `address` ("auto": of this machine).

    Raises UsageError if there is none at that address, MissingDependency without the extra `ray`.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anybody
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # replicas are what the machine is for; 15 by default
    if not address:
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(FOREVER))
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingDependency(error.name or "ray", "ray") from None

    session: Path | None = None  # of a Ray of our own: its folder
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        if address != "auto" and not _answers(address):
            raise UsageError(f"there is no Ray head at {address}; start one: ray start --head")
        try:
            ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"the Ray at {address} cannot be joined: {str(error).splitlines()[0]}") from None
    else:
        variants = sum(len(paths) for paths in settings.models.values())
        room = max(cores(), variants * scale.most * scale.cores)
        session = _start(num_cpus=room, include_dashboard=False, **quiet)
    head: str = ray.get_runtime_context().gcs_address
    try:
        logging.getLogger("ray").setLevel(logging.WARNING)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="Disabled")
        yield Cluster(head, scale, settings.queue)
    finally:
        if not _answers(head):
            _end()
        ray.shutdown()
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL + 1)  # a thread of its lives on and complains
        if session and sys.exc_info()[0] is None:  # after a failure its logs are wanted
            _tidy(session)


def _tidy(session: Path) -> None:
    shutil.rmtree(session, ignore_errors=True)
    latest = session.with_name("session_latest")
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def _start(**options: Any) -> Path:
    """The folder of its session, with its sockets and logs. Raises VivaceError.

    On a busy machine Ray's own processes miss each other's time limits; they start again."""
    import ray

    for again in reversed(range(STARTS)):
        try:
            started = ray.init(**options)
        except Exception as error:  # noqa: BLE001 - Ray raises no class of its own here
            ray.shutdown()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if not again:
                raise VivaceError(f"Ray does not start: {reason}; is the machine too busy?") from None
            log.warning("Ray did not start, once more: %s", reason)
        else:
            break
    return Path(started.address_info["session_dir"])


def _end() -> NoReturn:
    """Ends this process, and with it what is left of a Ray of our own: Ray's way to end waits for its head."""
    failed = sys.exc_info()[0] is not None
    log.warning("the Ray head is gone: this process ends without it")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def door(arguments: dict[str, Any]) -> Any:
    """The application that KubeRay runs (`import_path: vivace.server.cluster:door`): doors that Ray's proxies lead to,
    and replicas of every variant behind them.

    `arguments`: `models` (name: bundles, best first), `replicas` (N or N-M), `cores` (of each), `doors`, and the
    numbers of `Settings` by their names. Raises UsageError for what it does not know.
    """
    from ray import serve

    known = {"models", "replicas", "cores", "doors", "queue", "patience", "deadline", "per_minute", "shed_above"}
    if wrong := set(arguments) - known:
        raise UsageError(f"unknown: {', '.join(sorted(wrong))}; known: {', '.join(sorted(known))}")
    models = {name: [Path(path) for path in paths] for name, paths in dict(arguments["models"]).items()}
    least, most = span(str(arguments.get("replicas", 1)))
    scale = Scale(least, most, int(arguments.get("cores", 1)))
    numbers = {name: arguments[name] for name in known - {"models", "replicas", "cores", "doors"} if name in arguments}
    key = os.environ.get("VIVACE_API_KEY", "").strip()
    settings = Settings(models, keys=(key,) if key else (), **numbers)
    voices = [
        deployment(f"{model}.{path.name}", path, _plan(path, scale), scale, settings.queue)
        for model, paths in models.items()
        for path in paths
    ]

    def app() -> Any:
        from vivace.server.app import create_app

        name = serve.get_replica_context().app_name

        def speaker(model: str, path: Path, _: Plan) -> Replicas:
            return Replicas(name, f"{model}.{path.name}", _plan(path, scale), scale.start_seconds)

        return create_app(settings, speaker)

    made = serve.deployment(
        serve.ingress(app)(), name="door", num_replicas=int(arguments.get("doors", 1)), max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 1},
    )  # fmt: skip
    return made.bind(*voices)


def _plan(path: Path, scale: Scale) -> Plan:
    """Of one replica. It checks the bundle's digests itself."""
    return Plan.of(open_bundle(path, verify=False), scale.cores)


def span(text: str) -> tuple[int, int]:
    """The least and the most of `3` or `1-8`. Raises UsageError."""
    least, dash, most = text.partition("-")
    try:
        found = int(least), int(most if dash else least)
    except ValueError:
        found = 0, 0
    if not 0 < found[0] <= found[1]:
        raise UsageError(f"replicas are {text!r}; write a number such as 2, or 1-8 for as many as the queue asks for")
    return found
