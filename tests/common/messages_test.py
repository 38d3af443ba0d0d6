"""Sentences that can be told apart."""

import copy
import dataclasses
import json
import pickle

import pytest

from bt_jax.common.messages import Message, format_english


def made() -> Message:
    return Message("odd", "It is {kind}, {count} by {share} {size}.", kind=Message("ct", "CT"), count=64_000_000,
                    share=3.14159, size="8001x8000")  # fmt: skip


def test_it_is_its_english_text():
    assert made() == "It is CT, 64,000,000 by 3.1 8001x8000."
    assert json.dumps([made()]) == '["It is CT, 64,000,000 by 3.1 8001x8000."]'
    assert " ".join([made(), made()]).count("CT") == 2


def test_it_tells_its_parts():
    assert made().to_dict() == {
        "code": "odd",
        "values": {"kind": {"code": "ct", "values": {}}, "count": 64_000_000, "share": 3.14159, "size": "8001x8000"},
    }
    assert json.loads(json.dumps(made().to_dict())) == made().to_dict()


@dataclasses.dataclass
class Holder:
    text: str


@pytest.mark.parametrize(
    "copied",
    [
        lambda text: copy.deepcopy(text),
        lambda text: pickle.loads(pickle.dumps(text)),
        lambda text: dataclasses.asdict(Holder(text))["text"],
    ],
)
def test_copies_are_alike(copied):
    assert copied(made()) == made() and copied(made()).to_dict() == made().to_dict()


def test_values_in_english():
    assert [format_english(value) for value in (999, 1000, 2.0, "a")] == ["999", "1,000", "2.0", "a"]
