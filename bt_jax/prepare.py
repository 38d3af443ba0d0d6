"""Converts a folder or zip of images to a tensorflow-datasets data set (ArrayRecord) for fast random access.

    python -m bt_jax.prepare --data=archive.zip --out=data/prepared
    python -m bt_jax.prepare --data=phantoms --phantoms_per_class=10000,1000 --out=data/phantoms
    python -m bt_jax.main --config=configs/effnet.py --config.data.dir=data/prepared

The records hold the bytes of the image files, with patient or group, size and hashes. Training and evaluation read the
prepared folder like the original one and get the same records. A data set too large for memory is read while the model
trains. An interrupted conversion continues when it is started again. The folder --out appears once it is complete.
TensorFlow is not needed.
"""

import pathlib

from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_DATA = flags.DEFINE_string("data", "", "Folder or zip with images in class folders, or phantoms.")
_OUT = flags.DEFINE_string("out", "", "Folder to create.")
_MAX_UNREADABLE = flags.DEFINE_integer(
    "max_unreadable", 10, "Number of unreadable files to leave out; more than that is an error.", 0
)
_PHANTOMS = flags.DEFINE_list(
    "phantoms_per_class", ["80", "20"], "Number of phantoms per class in Training and in Testing."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the phantoms.", 0)


def main() -> None:
    """Converts the data set and prints a summary."""
    for flag in (_DATA, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    files.check_folder(pathlib.Path(_OUT.value), flag="out")
    files.check_utf8(_OUT.value)
    import tqdm  # after the flags, so that --help need not wait

    from bt_jax.data import array_record, sources

    if _DATA.value == "phantoms":
        if len(_PHANTOMS.value) != 2 or not all(number.isdecimal() for number in _PHANTOMS.value):
            raise UsageError(f"--phantoms_per_class is {','.join(_PHANTOMS.value)!r}: use two numbers, such as 80,20")
        training, testing = map(int, _PHANTOMS.value)
        source = sources.open_phantoms(per_class=(training, testing), seed=_SEED.value)
    else:
        source = sources.open_path(_DATA.value, field="--data")
    for warning in source.warnings:
        print(f"warning: {warning}")
    with tqdm.tqdm(total=len(source.records), unit=" images", dynamic_ncols=True, mininterval=0.5) as bar:
        made = array_record.prepare(
            source,
            pathlib.Path(_OUT.value),
            max_unreadable=_MAX_UNREADABLE.value,
            warn=lambda line: bar.write(f"warning: {line}"),
            progress=lambda done, total: bar.update(done - bar.n),
        )
    print(f"{made['images']:,} images of {len(made['class_names'])} classes; {made['grouping']}")
    print(f"prepared: {_OUT.value}")


if __name__ == "__main__":
    cli.run(main)
