import hypothesis
import pytest
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.experiments import grid

FIELDS = {
    "seed": 0,
    "model.name": "mlp",
    "model.hidden": (256,),
    "model.filters": (),
    "model.dropout": 0.5,
    "loss.class_weights": "balanced",
    "augment.flip": True,
    "stages.epochs": 2.0,
    "train.batch_size": 32,
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("model.hidden=(64,),(256,64)", [(64,), (256, 64)]),
        ("model.hidden=64,[256, 64],()", [(64,), (256, 64), ()]),
        ("model.filters=(8,16),(32,)", [(8, 16), (32,)]),
        ("config.train.batch_size=8, 16 ,8", [8, 16]),
        ("stages.epochs=5,1e-1,.5", [5.0, 0.1, 0.5]),
        ("augment.flip=true,False", [True, False]),
        ("model.name=mlp,cnn", ["mlp", "cnn"]),
        ("loss.class_weights=none,'1,1,2,1'", ["none", "1,1,2,1"]),
    ],
)
def test_values_have_the_type_of_the_field(text, values):
    field, parsed = grid.parse(text, fields=FIELDS)
    assert field in FIELDS
    assert parsed == values
    assert [type(value) for value in parsed] == [type(FIELDS[field])] * len(values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.hidden", "write it as FIELD=A,B"),
        ("model.hiden=(64,)", r"names 'model.hiden', which is not a field .* did you mean model.hidden\?"),
        ("hidden=(64,)", r"did you mean model.hidden\?"),
        ("nonsense=1", "the configuration file lists them"),
        ("seed=1,2", "--seeds=N"),
        ("train.batch_size=8,many", "--grid train.batch_size: 'many' is not a whole number, as in 32"),
        ("train.batch_size=8.5", "'8.5' is not a whole number"),
        ("train.batch_size=8,", "'' is not a whole number"),
        ("stages.epochs=nan", "'nan' is not a number"),
        ("augment.flip=1", "'1' is not true or false"),
        ("model.hidden=(64,),wide", r"'wide' is not a tuple such as \(256,\)"),
        ("model.hidden=(64.5,)", "is not a tuple"),
        ("model.hidden=(__import__('os'),)", "is not a tuple"),
        ("model.hidden=(64,(3,))", "is not a tuple"),
        ("model.hidden=(64,", "is not closed"),
        ("model.hidden=64)", "is not closed"),
        ("model.name='mlp", "is not closed"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        grid.parse(text, fields=FIELDS)
    assert "\n" not in str(caught.value)


@hypothesis.given(st.lists(st.lists(st.integers(-9, 999)).map(tuple), min_size=1, unique=True))
def test_tuples_come_back_as_they_were_written(values):
    text = ",".join(map(repr, values))
    assert grid.parse(f"model.hidden={text}", fields=FIELDS) == ("model.hidden", values)


@hypothesis.given(st.lists(st.text(alphabet="ab,(", max_size=5), min_size=1))
def test_quoted_parts_are_left_whole(parts):
    assert grid.split_values(",".join(f"'{part}'" for part in parts), field="f") == [f"'{part}'" for part in parts]


def test_points_are_all_combinations_the_last_changing_fastest():
    assert grid.list_points({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4},
    ]  # fmt: skip
    assert grid.list_points({}) == [{}]


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({"model.hidden": (256, 64), "stages.epochs": 5.0}, "hidden=256-64_epochs=5"),
        ({"model.hidden": ()}, "hidden=none"),
        ({"stages.epochs": 0.1}, "epochs=0.1"),
        ({"stages.learning_rate": 1e-5}, "learning_rate=1e-05"),
        ({"optimizer.name": "adam", "model.name": "cnn"}, "optimizer.name=adam_model.name=cnn"),
        ({"model.weights": "../weights of/vgg16.pth"}, "weights=..-weights-of-vgg16.pth"),
        ({"augment.flip": False}, "flip=false"),
        ({}, ""),
    ],
)
def test_folder_names_can_be_read(point, name):
    assert grid.name_folder(point) == name
