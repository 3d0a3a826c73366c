"""Writes figures in Prometheus' text format or as OpenMetrics. The one room that loads prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.metrics.figures import Labels, Sample
from nanumpay_backupd.metrics.table import METRICS, PREFIX

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = ["OPEN_METRICS", "PLAIN", "encode", "wants_open_metrics"]

PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_KIND: Final = "application/openmetrics-text"


def encode(values: Iterable[Sample], *, open_metrics: bool = False) -> bytes:
    """Return all metrics of the table with their values; takes some milliseconds, the first time a few more."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import generate_latest
    from prometheus_client.openmetrics import exposition
    from prometheus_client.registry import Collector

    found: dict[str, list[tuple[Labels, float]]] = {metric.name: [] for metric in METRICS}
    for sample in values:
        found[sample.metric].append((sample.labels, float(sample.value)))

    class Once(Collector):
        def collect(self) -> Iterator[Family]:
            return _families(found)

    registry = CollectorRegistry()
    registry.register(Once())
    if open_metrics:
        text: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text
    return generate_latest(registry)


def _families(found: dict[str, list[tuple[Labels, float]]]) -> Iterator[Family]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for metric in METRICS:
        kind = CounterMetricFamily if metric.counter else GaugeMetricFamily
        family = kind(f"{PREFIX}{metric.name}", metric.help, labels=metric.labels)
        for labels, value in sorted(found[metric.name]):
            family.add_metric(labels, value)
        yield family


def wants_open_metrics(accept: str) -> bool:
    """Tell from an Accept header whether OpenMetrics 1.0 is understood, which Prometheus asks for first."""
    for item in accept.split(","):
        kind, *rest = (part.strip().lower() for part in item.split(";"))
        told = dict(part.split("=", 1) for part in rest if "=" in part)
        if kind == _KIND and told.get("version", "1.0.0") == "1.0.0" and told.get("q", "1").strip("0.") != "":
            return True
    return False
