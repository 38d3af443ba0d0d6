"""Reads forms (multipart/form-data) into memory, with file names in any encoding or none.

werkzeug's own parser takes a part without a file name for text, drops a form whose file name is not UTF-8, and writes
files above half a megabyte to disk.
"""

import io
from typing import IO, Any

import flask
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

FILE_FIELD = "file"
_CHUNK = 2**16  # bytes read at once

ParsedForm = tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]


class _Decoder(MultipartDecoder):
    """Decodes the parts of a form; every part named `file` is a file."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            data.decode()
        except UnicodeDecodeError:  # an older program that sends names in Latin-1
            data = data.decode("latin-1").encode()
        return super()._parse_headers(data)

    def next_event(self) -> Event:
        """Returns the next part, piece of its content, or end."""
        event = super().next_event()
        if isinstance(event, Field) and event.name == FILE_FIELD:
            return File(name=event.name, filename="", headers=event.headers)
        return event


class _FormParser(FormDataParser):
    """Parses the form of a request."""

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> ParsedForm:
        """Returns the stream, the fields and the files of a form; both are empty if the form is malformed."""
        boundary = (options or {}).get("boundary", "")
        if mimetype != "multipart/form-data" or not boundary.isascii():
            return super().parse(stream, mimetype, content_length, options)
        try:
            return stream, *self._read_parts(stream, boundary.encode())
        except ValueError:
            return stream, self.cls(), self.cls()

    def _read_parts(self, stream: IO[bytes], boundary: bytes) -> tuple[Any, Any]:
        decoder = _Decoder(boundary, self.max_form_memory_size, max_parts=self.max_form_parts)
        fields: list[tuple[str, str]] = []
        files: list[tuple[str, FileStorage]] = []
        part: Field | File | None = None
        content, over = io.BytesIO(), False
        while not over:
            chunk = stream.read(_CHUNK)
            decoder.receive_data(chunk or None)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                if isinstance(event, Field | File):
                    part, content = event, io.BytesIO()
                elif isinstance(event, Data) and part is not None:
                    content.write(event.data)
                    if isinstance(part, Field) and content.tell() > (self.max_form_memory_size or 0):
                        raise RequestEntityTooLarge
                    if event.more_data:
                        continue
                    if isinstance(part, Field):
                        fields.append((part.name, content.getvalue().decode(errors="replace")))
                    else:
                        content.seek(0)
                        files.append((part.name, FileStorage(content, part.filename, part.name, headers=part.headers)))
            over = not chunk or isinstance(event, Epilogue)
        return self.cls(fields), self.cls(files)


class FormRequest(flask.Request):
    """A request whose form is read by this module."""

    form_data_parser_class = _FormParser
