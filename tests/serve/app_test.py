"""Pages and interface through the application: what they answer, refuse, and never do."""

import io
import json
import logging
import re
import time

import pytest

from bt_jax.serve import app as serve_app
from bt_jax.serve.batching import BusyError
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings
from tests import hostile_inputs, medical_files, multipart
from tests.openapi import misfits

SCAN = hostile_inputs.image()


def post(client, files=(("scan.png", SCAN),), headers=None, **fields):
    body = multipart.encoded(files, fields)
    return client.post("/api/predict", data=body, headers=headers, content_type=multipart.CONTENT_TYPE)


@pytest.fixture(scope="module")
def description(application) -> dict:
    return application.test_client().get("/openapi.json").get_json()


def fits(response, description) -> None:
    """The answer is as the OpenAPI file says."""
    path = description["paths"][response.request.path][response.request.method.lower()]
    answer = path["responses"][str(response.status_code)]
    (kind, content), *_ = answer["content"].items()
    assert response.content_type.startswith(kind)
    value = response.get_json() if kind == "application/json" else response.get_data(as_text=True)
    assert misfits(value, content["schema"], root=description) == []
    for header in answer.get("headers", {}):
        assert header in response.headers


def test_a_prediction_is_as_the_command_writes_it(client, description):
    response = post(client, [("a b.png", SCAN), ("broken.jpg", b"nothing")])
    assert response.status_code == 200
    fits(response, description)
    good, bad = response.get_json()["records"]
    assert list(good)[:5] == ["path", "prediction", "confidence", "probabilities", "warnings"]
    assert good["path"] == "a b.png" and good["confidence"] == max(good["probabilities"].values())
    assert list(good["probabilities"]) == ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"]
    assert bad["path"] == "broken.jpg" and bad["error"] == "not an image in a known format"


@pytest.mark.parametrize("method", ["gradcam", "layercam", "integrated_gradients"])
def test_heat_maps(client, description, method):
    response = post(client, picture="1", explain=method, **{"class": "no_tumor"})
    fits(response, description)
    (record,) = response.get_json()["records"]
    assert record["picture"] and record["heat_map"]["class"] == "no_tumor"


def test_the_description_names_all_fields_and_choices(client, description, engine):
    schema = description["paths"]["/api/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(schema["properties"]) == {"file", *serve_app._FIELDS}
    for field, one in schema["properties"].items():
        for value in one.get("enum", ()):
            assert post(client, **{field: value}).status_code == 200
    assert "curl -F file=@scan.png" in description["paths"]["/api/predict"]["post"]["description"]
    routes = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert set(description["paths"]) <= routes


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"lang": "fr"}, "bad_choice"),
        ({"picture": "yes"}, "bad_choice"),
        ({"explain": "guess"}, "bad_choice"),
        ({"class": "cat"}, "bad_choice"),
        ({"slice": "0"}, "bad_slice"),
        ({"slice": "-1"}, "bad_slice"),
        ({"slice": "1e3"}, "bad_slice"),
        ({"slice": "\u0663"}, "bad_slice"),
        ({"slice": "9" * 5000}, "bad_slice"),
        ({"colour": "red"}, "unknown_field"),
        ({"path": "/etc/passwd"}, "unknown_field"),
    ],
)
def test_wrong_fields(client, description, fields, code):
    response = post(client, **fields)
    assert response.status_code == 400 and response.get_json()["code"] == code
    fits(response, description)
    assert len(response.get_json()["error"]) < 200


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({}, 400),
        ({"data": b"x" * 100, "content_type": "image/png"}, 400),
        ({"data": {"other": (io.BytesIO(SCAN), "a.png")}, "content_type": "multipart/form-data"}, 400),
        ({"data": b"--x\r\n", "content_type": "multipart/form-data; boundary=x"}, 400),
        ({"data": b"rubbish", "content_type": "multipart/form-data"}, 400),
        ({"data": multipart.encoded([], {"lang": "x" * 2**19}), "content_type": multipart.CONTENT_TYPE}, 413),
        ({"data": {f"f{k}": "1" for k in range(40)}, "content_type": "multipart/form-data"}, 413),
        ({"data": multipart.encoded([("a", bytes(2**20))]), "content_type": multipart.CONTENT_TYPE}, 413),
        ({"data": multipart.encoded([("a", b"a")] * 7), "content_type": multipart.CONTENT_TYPE}, 400),
    ],
)
def test_requests_that_are_none(client, description, arguments, status):
    response = client.post("/api/predict", **arguments)
    assert response.status_code == status
    fits(response, description)


@pytest.mark.parametrize("content", [b"\r\n", b"\r", b"\n", b"--", b"\r\n--", b"\r\n" + b"-" * 60, b"\0"])
def test_files_of_any_bytes_arrive_whole(client, content):
    """Also those that look like the ends of parts, wherever the parser's chunks end."""
    file = SCAN + (content * 2**20)[:700_001]
    (record,) = post(client, [("a.png", file)]).get_json()["records"]
    assert "prediction" in record
    (record,) = post(client, [("a.png", file[len(SCAN) :])]).get_json()["records"]
    assert record["code"] == "unknown_format"


def test_names_are_only_said_again(client):
    names = [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\boot.ini",
        "<script>alert(1)</script>.png",
        "a" * 9000,
        "año\u202e.png",
    ]
    found = post(client, [(name, SCAN) for name in names]).get_json()["records"]
    assert len({json.dumps(record["probabilities"]) for record in found}) == 1
    assert [len(record["path"]) <= 200 for record in found] == [True] * 6
    assert found[3]["path"] == "<script>alert(1)</script>.png"


def test_the_language_of_errors(client):
    spanish = {"Accept-Language": "es-MX,es;q=0.9,en;q=0.8"}
    assert post(client, [("a", b"")], headers=spanish).get_json()["records"][0]["error"] == "el archivo está vacío"
    assert (
        post(client, [("a", b"")], headers=spanish, lang="en").get_json()["records"][0]["error"] == "the file is empty"
    )
    assert client.post("/api/predict", headers=spanish).get_json()["error"].startswith("envíe los archivos")
    assert client.get("/nowhere?lang=es").get_json()["error"] == "no existe esa página"
    assert post(client, [("a", b"")], headers={"Accept-Language": "de"}).get_json()["records"][0]["code"] == "empty"


PAGES = ["/", "/?lang=es", "/model", "/model?lang=es", "/static/app.js", "/static/style.css", "/static/icon.svg",
         "/openapi.json", "/sample.png", "/healthz", "/metrics"]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_pages_and_their_headers(client, page):
    response = client.get(page)
    assert response.status_code == 200 and response.data
    headers = response.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"] and "http" not in headers["Content-Security-Policy"]
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    if "no-cache" in headers["Cache-Control"]:
        assert client.get(page, headers={"If-None-Match": headers["ETag"]}).status_code == 304


@pytest.mark.parametrize("page", ["/", "/?lang=es", "/model", "/model?lang=es"])
def test_pages_have_nothing_inline_and_nothing_from_elsewhere(client, page):
    text = client.get(page).get_data(as_text=True)
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)
    for attributes in re.findall(r"<script([^>]*)>", text):
        assert 'type="application/json"' in attributes or re.search(r'src="static/[a-z.]+"', attributes)
    assert not re.search(r'(?:src|href)="(?:/|[a-z]+:)', text)  # see proxy_test
    assert re.search(r'<html lang="(en|es)">', text)[1] == ("es" if "lang=es" in page else "en")
    notice = "no un producto sanitario" if "lang=es" in page else "not a medical device"
    assert notice in text.replace("&#39;", "'")


def test_what_is_not_there(client, description):
    for path in ("/nowhere", "/static/../app.py", "/static/%2e%2e/app.py", "/static/app.py", "/static/", "/model/1.png",
                 "/model/x.png", "/static//etc/passwd"):  # fmt: skip
        response = client.get(path)
        assert response.status_code == 404 and response.get_json()["code"] == "not_found", path
    wrong = client.get("/api/predict")
    assert (
        wrong.status_code == 405 and wrong.headers["Allow"] == "OPTIONS, POST" and wrong.get_json()["code"] == "method"
    )


def test_other_sites_and_other_names(client, engine, workdir):
    assert post(client, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert post(client, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to it
    settings = Settings(hosts=frozenset({"localhost", "::1"}))
    guarded = serve_app.create(engine, settings, ModelPage(engine.predictor, [str(workdir)])).test_client()
    for host, status in (
        ("localhost:5000", 200),
        ("LOCALHOST", 200),
        ("[::1]:5000", 200),
        ("evil.example", 421),
        ("", 421),
    ):
        assert guarded.get("/", headers={"Host": host}).status_code == status, host


def test_too_much_to_do(client, description, engine, monkeypatch):
    def busy(*arguments, **options):
        raise BusyError(7)

    monkeypatch.setattr(type(engine), "predict", busy)
    response = post(client)
    assert response.status_code == 503 and response.headers["Retry-After"] == "7"
    fits(response, description)


def test_an_error_inside_says_and_logs_nothing_of_the_content(client, engine, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise ValueError(f"{medical_files.SECRET} in the middle")

    monkeypatch.setattr(type(engine), "predict", fail)
    with caplog.at_level(logging.DEBUG):
        response = post(client, [(medical_files.SECRET, medical_files.dicom(hostile_inputs.scan()))])
    assert response.status_code == 500 and response.get_json()["code"] == "internal"
    assert medical_files.SECRET not in response.get_data(as_text=True) + caplog.text
    assert "ValueError at" in caplog.text


def test_nothing_is_logged_of_what_goes_well(client, caplog):
    with caplog.at_level(logging.DEBUG):
        post(
            client,
            [(medical_files.SECRET, medical_files.dicom(hostile_inputs.scan())), ("b", b"%PDF")],
            explain="gradcam",
        )
    mine = [record for record in caplog.records if not record.name.startswith("jax")]
    assert mine == [] and medical_files.SECRET not in caplog.text


def test_health_and_counts(client, description, engine):
    health = client.get("/healthz")
    fits(health, description)
    assert health.get_json()["engines"] == ["JAX"]
    assert health.get_json()["models"] == ["run"] == post(client, [("a", SCAN)]).get_json()["models"]
    assert "Model</span>: run" in client.get("/").get_data(as_text=True)
    before = client.get("/metrics").get_data(as_text=True)
    post(client, [("a", SCAN), ("b", b"")], explain="gradcam")
    response = client.get("/metrics")
    fits(response, description)
    after = response.get_data(as_text=True)

    def value(text: str, name: str) -> float:
        found = re.search(rf"^bt_jax_{re.escape(name)} (.*)$", text, re.M)
        return float(found[1]) if found else 0.0

    for name in (
        "slices_total",
        "errors_total",
        "heat_maps_total",
        "steps",
        'requests_total{route="/api/predict",status="200"}',
    ):
        assert value(after, name) == value(before, name) + 1, name
    assert value(after, "queue_capacity") == 64 and value(after, "resident_bytes") > 1e6


def test_the_sample_is_a_phantom_that_can_be_predicted(client):
    sample = client.get("/sample.png")
    assert sample.content_type == "image/png" and sample.data.startswith(b"\x89PNG")
    (record,) = post(client, [("phantom.png", sample.data)]).get_json()["records"]
    assert "error" not in record


def test_the_corpus_of_hostile_files(client, description):
    """Each is a record or a clear refusal, within seconds."""
    statuses = set()
    for name, content in sorted(hostile_inputs.corpus().items()):
        begin = time.monotonic()
        response = post(client, [(name, content)], picture="1")
        assert response.status_code in (200, 413), name
        fits(response, description)
        assert medical_files.SECRET not in response.get_data(as_text=True), name
        assert time.monotonic() - begin < 10, name
        statuses.add(response.status_code)
        if response.status_code == 200:
            for record in response.get_json()["records"]:
                assert record["path"].split("#")[0] == name
    assert len(hostile_inputs.corpus()) >= 200 and 200 in statuses
