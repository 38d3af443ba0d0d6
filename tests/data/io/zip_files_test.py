"""Reading one zip from many places at once."""

import concurrent.futures
import pickle
import sys
import zipfile

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.io import zip_files
from bt_jax.data.io.zip_files import ZipReader
from tests import encrypted_zip, runs


@pytest.fixture
def files(tmp_path):
    """A zip of 200 files, and their contents."""
    generator = np.random.default_rng(0)
    made = {f"folder/{number}": generator.bytes(int(generator.integers(1, 20_000))) for number in range(200)}
    with zipfile.ZipFile(tmp_path / "some.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in made.items():
            archive.writestr(name, content)
    return tmp_path / "some.zip", made


def test_threads_read_what_was_written_and_the_directory_is_read_once(files, monkeypatch):
    path, made = files
    opened, open_zip = [], zipfile.ZipFile

    def counting(path):
        opened.append(path)
        return open_zip(path)

    monkeypatch.setattr(zip_files.zipfile, "ZipFile", counting)
    reader, names = ZipReader(path), list(made) * 5
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader, names)) == [made[name] for name in names]
    assert opened == [path]


def test_a_copy_reads_too(files):
    path, made = files
    reader = ZipReader(path)
    reader("folder/0")
    assert pickle.loads(pickle.dumps(reader))("folder/1") == made["folder/1"]


FORKED = """
import multiprocessing, pathlib, sys
from bt_jax.data.io.zip_files import ZipReader

reader = ZipReader(pathlib.Path(sys.argv[1]))
names = [f"folder/{number}" for number in range(200)] * 5
expected = [reader(name) for name in names]
with multiprocessing.get_context("fork").Pool(2) as pool:
    asked = pool.map_async(reader.__call__, names)
    assert [reader(name) for name in names] == expected
    assert asked.get(60) == expected
"""


def test_a_forked_process_does_not_disturb_its_parent(files):
    """In a process of its own, which has no threads that a child could miss."""
    path, _ = files
    done = runs.run([sys.executable, "-c", FORKED, str(path)])
    assert done.returncode == 0, done.stderr


def test_a_damaged_file_is_named(files):
    path, _ = files
    content = bytearray(path.read_bytes())
    content[100:120] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(OSError, match="folder/0: cannot be read from the zip"):
        ZipReader(path)("folder/0")


@pytest.mark.parametrize("open_names", [(), ("a/1.png",)])
def test_an_encrypted_zip_is_one_sentence(tmp_path, open_names):
    path = encrypted_zip.write(tmp_path / "some.zip", {"a/1.png": b"1", "a/2.png": b"2"}, open_names=open_names)
    with pytest.raises(UsageError, match=r"\.zip is encrypted: unpack it with its password, and give the folder$"):
        ZipReader(path)("a/1.png")
