"""Both languages say everything, and with the same values."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

import bt_jax
from bt_jax.common.messages import Message
from bt_jax.serve import i18n

PACKAGE = pathlib.Path(bt_jax.__path__[0])


def sentences() -> Iterator[tuple[str, str]]:
    """Code and template of every `Message` that is made in the package, as written in its sources."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Message":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: a code that is not written there"
                names = [keyword.arg for keyword in node.keywords]
                yield node.args[0].value, " ".join(f"{{{name}}}" for name in names)


CODES = sorted(set(sentences()))


def values_in(template: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", template))


def test_sentences_are_found():
    codes = {code for code, _ in CODES}
    assert {"empty", "unlike_training", "busy", "dicom_table", "x_ray"} <= codes and len(codes) > 70


@pytest.mark.parametrize(("code", "values"), CODES)
def test_spanish_has_every_sentence_with_its_values(code, values):
    assert values_in(i18n.load_texts("es")["said"][code]) == values_in(values)


def test_spanish_has_no_sentence_that_nobody_says():
    assert i18n.load_texts("es")["said"].keys() == {code for code, _ in CODES}


def test_the_tables_have_the_same_texts_with_the_same_values():
    english, spanish = (i18n.load_texts(name) for name in i18n.LANGUAGES)
    assert english["page"].keys() == spanish["page"].keys()
    for key, text in english["page"].items():
        assert values_in(text) == values_in(spanish["page"][key]), key
    assert english["classes"].keys() == spanish["classes"].keys()


def test_every_text_of_the_tables_is_used_and_every_used_one_is_there():
    pages = [*(PACKAGE / "serve" / "templates").iterdir(), *(PACKAGE / "serve" / "static").glob("*.js")]
    sources = "".join(path.read_text() for path in [*pages, PACKAGE / "serve" / "model_page.py"])
    keys = i18n.load_texts("en")["page"].keys()
    methods = {"gradcam", "layercam", "integrated_gradients"}
    unused = {key for key in keys - methods if not re.search(rf'["\.]{key}\b', sources)}
    assert unused == set()
    used = set(re.findall(r'\btext\("(\w+)"', sources)) | set(re.findall(r'data-(?:text|label)="(\w+)"', sources))
    assert used - keys == set()


def test_what_is_told():
    sentence = Message("too_many_bytes", "{count} bytes exceed the limit of {limit}", count=12345, limit=9999)
    assert i18n.translate(sentence, "en") == "12,345 bytes exceed the limit of 9,999"
    assert i18n.translate(sentence, "es") == "12.345 bytes superan el límite de 9999"
    nested = Message("other_modality", "It is {modality}.", modality=Message("x_ray", "an X-ray"))
    assert "una radiografía" in i18n.translate(nested, "es")
    share = Message("unlike_training", "{score}", score=2.25)
    assert "2,2 veces" in i18n.translate(share, "es")
    assert i18n.translate("as it is", "es") == "as it is"
    assert i18n.get_code_and_values("as it is") == {"code": "other", "values": {}}
