"""The text that Prometheus reads."""

import re

from bt_jax.serve.counters import Counters


def test_the_text_by_hand():
    counters = Counters({"queue": lambda: 7.5})
    counters.slices.inc(3)
    counters.slices.inc()
    counters.count_request(route="/a", status=200, seconds=0.05)
    counters.count_request(route="/a", status=503, seconds=99)
    counters.count_request(route='/"\\\n', status=200, seconds=0.3)
    lines = counters.format().decode().splitlines()
    assert "bt_jax_slices_total 4.0" in lines and "bt_jax_errors_total 0.0" in lines
    assert 'bt_jax_requests_total{route="/a",status="503"} 1.0' in lines
    assert 'bt_jax_requests_total{route="/\\"\\\\\\n",status="200"} 1.0' in lines
    assert 'bt_jax_request_seconds_bucket{le="0.05",route="/a"} 1.0' in lines
    assert 'bt_jax_request_seconds_bucket{le="30.0",route="/a"} 1.0' in lines
    assert 'bt_jax_request_seconds_bucket{le="+Inf",route="/a"} 2.0' in lines
    assert 'bt_jax_request_seconds_count{route="/a"} 2.0' in lines
    assert 'bt_jax_request_seconds_sum{route="/a"} 99.05' in lines
    assert lines[-2:] == ["# TYPE bt_jax_queue gauge", "bt_jax_queue 7.5"]


def test_the_names_that_scripts_read():
    counters = Counters({"steps": lambda: 2})
    counters.count_request(route="/", status=200, seconds=1)
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", counters.format().decode(), re.MULTILINE))
    assert kinds == {
        "bt_jax_slices_total": "counter",
        "bt_jax_errors_total": "counter",
        "bt_jax_heat_maps_total": "counter",
        "bt_jax_refused_total": "counter",
        "bt_jax_requests_total": "counter",
        "bt_jax_request_seconds": "histogram",
        "bt_jax_steps": "gauge",
    }


def test_servers_do_not_share_counts():
    one, other = Counters({}), Counters({})
    one.refused.inc()
    assert "bt_jax_refused_total 1.0" in one.format().decode()
    assert "bt_jax_refused_total 0.0" in other.format().decode()
