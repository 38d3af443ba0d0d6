import jax.numpy as jnp

from bt_jax.benchmark import machine
from bt_jax.benchmark.peers import turns


def test_ceilings_do_the_work_they_count():
    ceilings = machine.prepare_ceilings(jnp.dtype("float32"))
    assert ceilings["flops"].amount == 2 * 2048**3
    assert ceilings["bytes"].amount == 2 * 2**28
    for ceiling in ceilings.values():
        for _ in range(2):  # donated arrays are given back
            seconds = turns.make_turn(turns.Step(ceiling.run, ceiling.wait))()
            # Beyond any machine with one device: the work was not done.
            assert ceiling.amount / seconds < 1e16


def test_the_machine_is_described():
    described = machine.describe()
    assert described["cores"] >= 1 and described["devices"] >= 1
    assert described["processor"] and described["device"]
    assert machine.read_peak_memory() > 2**20
