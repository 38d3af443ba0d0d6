import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.ops.pairs import map_pairs


@settings(max_examples=10, deadline=None)
@given(pairs=st.integers(1, 5), width=st.integers(1, 3))
def test_a_row_meets_the_row_as_far_from_the_end(pairs, width):
    """The first output of a pair is that of the earlier row, and sees the later one in second place."""
    generator = np.random.default_rng(pairs)
    x, share = generator.normal(size=(2 * pairs, width, 2)), generator.normal(size=2 * pairs)

    def mix(x, share):
        assert x.shape == (2, width, 2)
        return x + share[:, None, None] * x[::-1]

    mixed = map_pairs(mix, jnp.asarray(x, jnp.float32), jnp.asarray(share, jnp.float32))
    np.testing.assert_allclose(mixed, x + share[:, None, None] * x[::-1], rtol=1e-5, atol=1e-5)
