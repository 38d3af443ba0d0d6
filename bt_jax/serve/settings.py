"""What a server allows: the limits that it answers with, and the names that it answers to."""

import dataclasses

from bt_jax.data.io.slices import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits on requests.

    Attributes:
      request_bytes: of a request, and so of each file in it.
      files: in a request.
      pixels: of an image or slice.
      slices: of a file.
      unpacked_bytes: what a compressed file may become.
      requests: with files that are answered at the same time, waiting included.
      seconds: in which a request is answered, from the time it has arrived.
      hosts: names that requests may be addressed to; None are all.
    """

    request_bytes: int = 2**26
    files: int = 32
    pixels: int = 30_000_000
    slices: int = 512
    unpacked_bytes: int = 2**28
    requests: int = 128
    seconds: float = 60.0
    hosts: frozenset[str] | None = None

    def make_file_limits(self) -> Limits:
        """The same for whoever reads files."""
        return Limits(
            file_bytes=self.request_bytes, pixels=self.pixels, slices=self.slices, unpacked_bytes=self.unpacked_bytes
        )
