"""Forms as browsers send them: werkzeug's own test client would put large ones into temporary files."""

from collections.abc import Iterable, Mapping

BOUNDARY = "----7MA4YWxkTrZu0gW"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def encoded(files: Iterable[tuple[str, bytes]], fields: Mapping[str, str] | None = None) -> bytes:
    """A form with files as its field `file`."""
    parts = [(f'name="{name}"', value.encode()) for name, value in (fields or {}).items()]
    parts += [(f'name="file"; filename="{_quoted(name)}"', content) for name, content in files]
    lines = []
    for disposition, content in parts:
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        lines += [head.encode("utf-8", "surrogateescape"), content, b"\r\n"]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


def _quoted(name: str) -> str:
    """As HTML has it for form data."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
