"""The composition root of the dashboard: gives the page's server what `sync.app` and the looks can say and do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from connectors.errors import Misused
from connectors.mongo import client as mongo
from connectors.mongo import control as asked
from consumers.mapping import spec
from sync import app, controller
from sync.dashboard import access, serve
from sync.dashboard.feed import About, Feed, Sources
from sync.dashboard.quiet import Quiet
from sync.dashboard.server import Actions, build_of, page_files
from sync.dead_letters import desk
from sync.lag.watch import LagWatch
from sync.observe.metrics import DashboardMetrics, PipelineMetrics
from sync.settings import Settings

Log = Callable[..., None]
#: a page that is looked at waits for no server for long
_TIMEOUT_MS = 2_000


def dashboard(
    settings: Settings,
    log: Log,
    listening: Callable[[str, bool], None],
    *,
    host: str | None = None,
    port: int | None = None,
    token_file: Path | None = None,
) -> None:
    """Serve the web page until told to end. listening: told its address, and whether it takes changes.

    host, port, token_file: before those of the settings. Raises AddressRefused, and what is wrong with the token or the
    mapping file.
    """
    wished = settings.dashboard
    host = wished.host if host is None else host
    token = access.token_of(token_file, wished.token, wished.token_file, log)
    watch = LagWatch(settings, notes=True)
    quiet = Quiet(log)
    about = About(
        pipeline=settings.source.slot,
        writes=token is not None,
        control=True,
        lag_below_s=wished.ready_below_s,
        verified_within_s=wished.verified_within_h * 3_600,
        build=build_of(page_files()),
    )
    with closing(serve.listen(host, wished.port if port is None else port)) as bound:
        may = access.Access(token, access.is_loopback(bound.getsockname()[0]))
        if not may.loopback:
            log("whoever reaches this address sees the page", address=host)
        listening(serve.url_of(bound), token is not None)
        role = DashboardMetrics()
        feed = Feed(_sources(settings, watch, PipelineMetrics(role)), about, quiet)
        serve.serve(bound, feed, _actions(settings), may, quiet, metrics=role.text)


def _sources(settings: Settings, watch: LagWatch, numbers: PipelineMetrics) -> Sources:
    def lag() -> Mapping[str, Any]:
        report = watch.look()
        numbers.take(report)
        return report.as_dict()

    def status() -> Mapping[str, Any]:
        report = app.status(settings)
        numbers.take_status(report)
        return report.as_dict()

    return Sources(
        lag=lag,
        status=status,
        parked=lambda most: _parked(settings, most),
        cutover=lambda: controller.shown(settings, _TIMEOUT_MS),
        close=watch.close,
    )


def _actions(settings: Settings) -> Actions:
    return Actions(
        retry=lambda keys: app.retry_dead_letters(settings, keys).as_dict(),
        control=lambda action, limits: _steered(settings, action, limits),
    )


def _parked(settings: Settings, most: int) -> list[Mapping[str, Any]]:
    """The oldest, without values: anybody may read the page."""
    db = mongo.connect(settings.target, timeout_ms=_TIMEOUT_MS, name="tandem dashboard")
    try:
        found = desk.chosen(db, spec.load(settings.mapping), most=most)
    finally:
        db.client.close()
    return [
        {
            "key": one.parked.id,
            "collection": ", ".join(one.collections) or None,
            "class": one.parked.parked_class,
            "since": desk.moment(one.parked.since_ms),
            "reason": one.parked.reason,
        }
        for one in found
    ]


def _steered(settings: Settings, action: str, limits: Mapping[str, Any]) -> dict[str, object]:
    """Pause, resume or throttle, as the page asks. Raises Misused for a role that there is not."""
    which = limits.get("roles") or list(asked.ROLES)
    if not isinstance(which, list) or not all(isinstance(role, str) for role in which):
        raise Misused("roles has to be a list", remedy=f"name {' or '.join(asked.ROLES)}")
    ops, lag_s = limits.get("max_ops"), limits.get("max_lag_s")
    if action == "pause":
        app.control(settings, pause=which)
    elif action == "resume":
        app.control(settings, resume=which)
    else:
        ops = None if ops is None else int(ops)
        app.control(settings, max_ops=ops, max_lag_s=lag_s, unlimited=ops is None and lag_s is None)
    return {"ok": True}
