"""Settings of the server: limits on requests and files, and the accepted host names."""

import dataclasses

from bt_jax.data.io.slices import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits on requests.

    Attributes:
      request_bytes: size of a request in bytes.
      files: number of files per request.
      pixels: number of pixels of an image or slice.
      slices: number of slices of a file.
      unpacked_bytes: size of a compressed file after decompression, in bytes.
      requests: number of concurrent requests with files, including those that wait.
      seconds: time limit for the response to a request that has arrived.
      hosts: host names that requests may use; None allows all.
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
        """Makes the limits that apply to a single file."""
        return Limits(
            file_bytes=self.request_bytes, pixels=self.pixels, slices=self.slices, unpacked_bytes=self.unpacked_bytes
        )
