"""The text that Prometheus reads."""

import re

from bt_jax.serve.counters import Counters


def test_the_text_by_hand():
    counters = Counters()
    counters.count("slices_total", 3)
    counters.count("slices_total")
    counters.request(route="/a", status=200, seconds=0.05)
    counters.request(route="/a", status=503, seconds=99)
    counters.request(route='/"\\\n', status=200, seconds=0.3)
    lines = counters.text({"queue": 7.5}).splitlines()
    assert "bt_jax_slices_total 4" in lines
    assert 'bt_jax_requests_total{route="/a",status="503"} 1' in lines
    assert 'bt_jax_requests_total{route="/\\"\\\\\\n",status="200"} 1' in lines
    assert 'bt_jax_request_seconds_bucket{le="0.05",route="/a"} 1' in lines
    assert 'bt_jax_request_seconds_bucket{le="30.0",route="/a"} 1' in lines
    assert 'bt_jax_request_seconds_bucket{le="+Inf",route="/a"} 2' in lines
    assert 'bt_jax_request_seconds_count{route="/a"} 2' in lines
    assert 'bt_jax_request_seconds_sum{route="/a"} 99.05' in lines
    assert lines[-2:] == ["# TYPE bt_jax_queue gauge", "bt_jax_queue 7.5"]


def test_every_line_has_the_form_of_the_format():
    counters = Counters()
    assert counters.text({}) in ("\n", "# TYPE bt_jax_request_seconds histogram\n")
    counters.request(route="/", status=200, seconds=1)
    for line in counters.text({"a": 1}).splitlines():
        assert re.fullmatch(
            r'# TYPE \w+ (counter|gauge|histogram)|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+]+', line
        )
