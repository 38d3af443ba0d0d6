from bt_jax.common.spread import Spread


def test_spread_by_hand() -> None:
    assert Spread.from_values([3, 1, 2, 10]) == Spread(mean=4.0, median=2.5, low=1.0, high=10.0)


def test_one_value_is_its_own_spread() -> None:
    assert Spread.from_values([0.5]) == Spread(mean=0.5, median=0.5, low=0.5, high=0.5)
