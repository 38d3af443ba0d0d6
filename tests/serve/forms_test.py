"""Forms as programs send them: file names in any encoding or none, and what werkzeug refuses stays refused."""

import io

import pytest

from bt_jax.serve import forms
from tests import hostile_inputs, multipart

SCAN = hostile_inputs.image()


def post(client, *parts: tuple[bytes, bytes]):
    """Posts parts, each of headers and content."""
    boundary = multipart.BOUNDARY.encode()
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts) + b"--%b--\r\n" % boundary
    return client.post("/api/predict", data=body, content_type=multipart.CONTENT_TYPE)


def part(rest: bytes = b"", content: bytes = SCAN, name: bytes = b"file") -> tuple[bytes, bytes]:
    return b'Content-Disposition: form-data; name="%b"%b' % (name, rest), content


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        (b"", "image"),
        (b'; filename=""', "image"),
        (b"\r\nContent-Type: application/octet-stream", "image"),
        (b"\r\nContent-Type: text/plain; charset=iso-8859-1", "image"),
        (b'; filename="scan.png"', "scan.png"),
        (b"; filename=scan.png", "scan.png"),
        ("; filename=\"Schädel.png\"".encode(), "Schädel.png"),
        ("; filename=\"Schädel.png\"".encode("latin-1"), "Schädel.png"),
        (b"; filename*=UTF-8''Sch%C3%A4del.png", "Schädel.png"),
        (b"; filename*=utf-8'de'Sch%C3%A4del.png", "Schädel.png"),
        (b"; filename*=ISO-8859-1''Sch%E4del.png", "Schädel.png"),
        (b"; filename*0=Sch; filename*1=aedel.png", "Schaedel.png"),
    ],
)  # fmt: skip
def test_a_part_named_file_is_a_file_whatever_its_own_name(client, rest, path):
    response = post(client, part(rest))
    assert response.status_code == 200, response.text
    (record,) = response.get_json()["records"]
    assert record["path"] == path and "prediction" in record


def test_a_file_without_a_name_may_be_larger_than_a_field(client):
    """It is no text, and may hold anything that ends a line."""
    large = b"\r\n--\r\n" * 2**16
    (record,) = post(client, part(content=large)).get_json()["records"]
    assert record["error"] == "not an image in a known format"


def test_files_with_and_without_names_and_fields_are_told_apart(client):
    fields = [part(name=b"lang", content=b"es"), part(name=b"picture", content=b"1")]
    response = post(client, part(), *fields, part(b'; filename="b.png"'))
    records = response.get_json()["records"]
    assert [record["path"] for record in records] == ["image", "b.png"]
    assert all("picture" in record for record in records)


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([part(name=b"other")], 400, "no_file"),
        ([part(), part(name=b"other", content=b"1")], 400, "unknown_field"),
        ([part(), part(name=b"lang", content=b"x" * (2**18 + 1))], 413, "request_too_large"),
        ([part(content=b"x")] * 40, 413, "request_too_large"),
        ([(b"Content-Type: image/png", SCAN)], 400, "no_file"),
        ([(b"Content-Disposition: form-data", SCAN)], 400, "no_file"),
    ],
)
def test_other_forms_are_refused_as_before(client, parts, status, code):
    response = post(client, *parts)
    assert (response.status_code, response.get_json()["code"]) == (status, code)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=\xe4", "image/png", "", "a=b"])
@pytest.mark.parametrize(
    "body", [b"", SCAN, b"--a--\r\n", b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nx']
)
def test_what_is_no_form_has_no_file(client, kind, body):
    response = client.post("/api/predict", data=body, content_type=kind)
    assert (response.status_code, response.get_json()["code"]) == (400, "no_file")


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n\r", b"\r\n--", b"\r\n-----"])
@pytest.mark.parametrize("size", [0, 65_300, *range(65_400, 65_540, 7), 131_000])
def test_no_byte_is_lost_or_added_where_the_form_is_read_in_pieces(end, size):
    """Parsers have dropped a carriage return at the end of a file, and put line ends before the next field."""
    content = b"x" * size + end
    body = multipart.encoded([("a.dcm", content), ("b.dcm", content)], {"lang": "es"})
    parser = forms.FormRequest.form_data_parser_class(max_form_memory_size=2**18, max_form_parts=40)
    options = {"boundary": multipart.BOUNDARY}
    _, fields, files = parser.parse(io.BytesIO(body), "multipart/form-data", len(body), options)
    assert [file.read() for file in files.getlist("file")] == [content, content]
    assert fields.to_dict() == {"lang": "es"}
