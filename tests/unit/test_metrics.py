"""Metrics as Prometheus gets them."""

import urllib.error
import urllib.request

import pytest

from crossdock.ports import free_port
from streams.metrics import NEIGHBOURS, Metrics


def scraped(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def test_what_was_counted_and_measured_is_served_on_the_loopback_address() -> None:
    metrics = Metrics()
    metrics.settled("orders", "write", {"applied": 3, "dead": 1})
    metrics.settled("orders", "write", {"applied": 2})
    metrics.measure("crossdock_open_records", 7, "hub.crossdock.write.erp")
    metrics.measure("crossdock_loop_lag_seconds", 0.25)
    lines = scraped(metrics.serve(free_port()))
    assert 'crossdock_events_total{outcome="applied",pipeline="orders",stage="write"} 5.0' in lines
    assert 'crossdock_events_total{outcome="dead",pipeline="orders",stage="write"} 1.0' in lines
    assert 'crossdock_open_records{group="hub.crossdock.write.erp"} 7.0' in lines
    assert "crossdock_loop_lag_seconds 0.25" in lines
    assert {line.partition("{")[0].partition(" ")[0].split("_")[0] for line in lines} == {"crossdock"}


def test_a_second_worker_of_a_machine_takes_the_next_port_and_a_seventeenth_is_told() -> None:
    port = free_port()
    served = [Metrics().serve(port) for _ in range(NEIGHBOURS)]
    assert served[0] == port
    assert len(set(served)) == len(served)
    with pytest.raises(OSError, match=f"ports {port} to {port + NEIGHBOURS - 1} on 127.0.0.1 are in use"):
        Metrics().serve(port)
