"""The layout of a data folder: where its class folders are, which split each belongs to, and what is left out.

People keep the same images in many layouts: `Training/<class>/` and `Testing/<class>/` in any spelling, class folders
alone, either of them inside other folders, or beside a copy of themselves.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, groups_table
from bt_jax.data.folder_names import (
    VALIDATION,
    find_split,
    get_class,
    get_depth,
    get_name,
    get_parent,
    is_archive,
    is_below,
    is_beside_classes,
    list_parents,
)
from bt_jax.data.io.file_names import can_be_image
from bt_jax.data.io.listing import Listing
from bt_jax.data.records import TESTING, TRAINING


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """A class folder; paths are relative to the root of the layout.

    Attributes:
      split: `Training` or `Testing`.
      name: of the class folder.
      path: of the folder.
      files: sorted paths of its images; empty for a folder without images.
      below: a folder inside it that holds images instead, if any.
    """

    split: str
    name: str
    path: str
    files: tuple[str, ...] = ()
    below: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a folder or zip, by their role.

    Attributes:
      root: folder that all paths are relative to, with a slash at the end, or empty.
      divided: whether class folders are inside of Training and Testing.
      folders: those with images, sorted by path.
      empty: class folders without images.
      warnings: one line for each kind of file that is left out.
    """

    root: str
    divided: bool
    folders: tuple[ClassFolder, ...]
    empty: tuple[ClassFolder, ...]
    warnings: tuple[str, ...]


def find_layout(listing: Listing, *, class_names: Sequence[str] | None = None) -> Layout:
    """Finds the class folders of a listing.

    Args:
      listing: the files.
      class_names: classes of the model to be evaluated, if any; a folder with such a name is a class folder.

    Raises:
      UsageError: there are no class folders, or those of several data sets.
    """
    tree = _Tree(listing, frozenset(map(class_labels.canonicalise, class_names or ())))
    root = tree.find_root()
    divided = tree.is_divided(root)
    found = list(tree.list_class_folders(root))
    used = {file for folder in found for file in folder.files}
    prefix = f"{root}/" if root else ""

    def relate(path: str) -> str:
        return path.removeprefix(prefix)

    relative = [
        dataclasses.replace(
            folder, path=relate(folder.path), files=tuple(map(relate, folder.files)), below=relate(folder.below)
        )
        for folder in found
    ]
    return Layout(
        root=prefix,
        divided=divided,
        folders=tuple(sorted((folder for folder in relative if folder.files), key=lambda folder: folder.path)),
        empty=tuple(folder for folder in relative if not folder.files),
        warnings=tuple(tree.describe_left_out(root, used)),
    )


class _Tree:
    """The folders of a listing. A path of a folder has no slash at its end; that of the top is empty."""

    def __init__(self, listing: Listing, class_names: frozenset[str]):
        self.title, self.is_zip, self.class_names = listing.title, listing.kind == "zip", class_names
        self.files = collections.defaultdict[str, list[str]](list)  # by folder: sorted paths of the files in it
        self.folders = collections.defaultdict[str, list[str]](list)  # by folder: sorted paths of the folders in it
        self.count = collections.Counter[str]()  # by folder: files in it and below that may be images
        for file in sorted(listing.names):
            self.files[get_parent(file)].append(file)
        known = {""}
        for folder in sorted({*listing.folders, *self.files}):
            while folder not in known:
                known.add(folder)
                self.folders[get_parent(folder)].append(folder)
                folder = get_parent(folder)
        for below in self.folders.values():
            below.sort()
        for folder, files in self.files.items():
            number = sum(map(can_be_image, files))
            for above in list_parents(folder):
                self.count[above] += number
        self.all = sorted(known, key=lambda folder: (folder.count("/") + bool(folder), folder))  # the top first

    def find_root(self) -> str:
        """Finds the folder that holds Training and Testing, or else the class folders themselves."""
        training = [folder for folder in self.all if self.list_splits(folder, TRAINING)]
        if training:
            return self.take_only(training)
        testing = [folder for folder in self.all if self.list_splits(folder, TESTING)]
        flat = [folder for folder in self.all if len(self.list_classes(folder)) > 1]
        if testing and not (flat and get_depth(flat[0]) < get_depth(testing[0])):
            return self.take_only(testing)
        if not flat:  # folders inside of the class folders hold the images
            flat = [folder for folder in self.all if len(self.list_wrapped(folder)) > 1]
        if not flat:
            flat = [folder for folder in self.all if self.list_classes(folder)]
        if not flat:
            archive = next((file for files in self.files.values() for file in files if is_archive(file)), None)
            hint = f": unpack {archive}" if archive else ": expected Training/<class>/<image>"
            raise UsageError(f"{self.title} holds no images in class folders{hint}")
        root = self.take_only(flat)
        for folder in list_parents(root)[1:]:
            others = [below for below in self.folders[folder] if self.count[below] and not is_below(root, below)]
            if others:  # perhaps `root` is a class with a folder for each patient
                raise self.refuse([others[0], root])
        return root

    def take_only(self, folders: Sequence[str]) -> str:
        """Returns the first folder, unless there are others as deep."""
        same = [folder for folder in folders if get_depth(folder) == get_depth(folders[0])]
        if len(same) > 1:
            raise self.refuse(same)
        return same[0]

    def refuse(self, folders: Sequence[str]) -> UsageError:
        named = ", ".join(map(repr, folders[:3])) + (", ..." if len(folders) > 3 else "")
        return UsageError(
            f"{self.title} holds images in several folders side by side, {named}: {'unpack it and ' * self.is_zip}give "
            f"the folder that holds Training/<class>/<image> or <class>/<image>"
        )

    def list_splits(self, folder: str, *splits: str) -> list[tuple[str, str]]:
        """Lists the Training or Testing folders directly in a folder that have class folders: split and path."""
        found = ((find_split(get_name(below)) or "", below) for below in self.folders.get(folder, ()))
        return [(split, below) for split, below in found if split in splits and self.has_classes(below)]

    def has_classes(self, folder: str) -> bool:
        inner = self.unwrap(folder)
        return bool(self.list_full(inner) or self.list_wrapped(inner))

    def is_divided(self, root: str) -> bool:
        return bool(self.list_splits(root, TRAINING, TESTING))

    def unwrap(self, folder: str) -> str:
        """Descends through folders that hold nothing but one folder with other folders, as in `train/train/<class>`."""
        while True:
            full = [below for below in self.folders.get(folder, ()) if self.count[below]]
            if len(full) != 1 or self.has_images(folder) or self.has_images(full[0]):
                return folder
            folder = full[0]

    def has_images(self, folder: str) -> bool:
        return any(map(can_be_image, self.files.get(folder, ())))

    def list_full(self, folder: str) -> list[str]:
        """Lists the folders directly in a folder that hold images."""
        return [below for below in self.folders.get(folder, ()) if self.has_images(below)]

    def list_classes(self, folder: str) -> list[str]:
        """Lists the folders directly in a folder that hold images of a class, if it is not a split."""
        full = [
            below
            for below in self.list_full(folder)
            if self.is_class(below) or find_split(get_name(below)) not in (TRAINING, TESTING)
        ]
        certain = [below for below in full if self.is_class(below) or not is_beside_classes(below)]
        return certain if len(certain) > 1 else full  # without other classes, `valid` and `invalid` are two

    def is_class(self, folder: str) -> bool:
        return get_class(folder) in self.class_names

    def list_wrapped(self, folder: str) -> list[str]:
        """Lists class folders whose images are one folder further down, as in `glioma/glioma/<image>`."""
        below = [below for below in self.folders.get(folder, ()) if find_split(get_name(below)) is None]
        return [each for each in below if self.find_images(each) != each]

    def find_images(self, folder: str) -> str:
        """Returns the folder that holds the images of a class folder: itself, or the only folder in it."""
        below = [below for below in self.folders.get(folder, ()) if self.count[below]]
        if not self.has_images(folder) and len(below) == 1 and self.has_images(below[0]):
            return below[0]
        return folder

    def list_class_folders(self, root: str) -> Iterable[ClassFolder]:
        """Yields the class folders of a root, also those without images."""
        splits = self.list_splits(root, TRAINING, TESTING)
        for split, folder in splits or [(TRAINING, root)]:
            parent = self.unwrap(folder) if splits else root
            classes = self.list_full(parent) if splits else self.list_classes(parent)
            names = {get_class(each) for each in classes}
            for each in self.folders.get(parent, ()):
                images = self.find_images(each)
                if each in classes:
                    yield ClassFolder(split, get_name(each), each, tuple(self.files[each]))
                elif not self.files.get(each) and self.may_be_class(each, names, divided=bool(splits)):
                    below = next((inside for inside in self.folders.get(each, ()) if self.count[inside]), "")
                    files = tuple(self.files[images]) if images != each else ()
                    yield ClassFolder(split, get_name(each), each, files, below)

    def may_be_class(self, folder: str, names: set[str], *, divided: bool) -> bool:
        """Returns whether a folder without files directly in it is meant as a class folder, and is no copy of others.

        Args:
          folder: its path.
          names: of the classes beside it.
          divided: whether it is inside of Training or Testing, where nothing but classes is expected.
        """
        name = get_class(folder)
        inside = {get_class(below) for below in self.folders.get(folder, ())}
        if is_beside_classes(folder) or find_split(get_name(folder)) or inside & (names - {name}):
            return False
        expected = divided or not names or not self.count[folder]
        return expected or name in class_labels.BRAIN_TUMOR_CLASSES or name in self.class_names

    def describe_left_out(self, root: str, used: set[str]) -> list[str]:
        """Returns a line for each kind of file that is left out. Files at the top are not: nobody expects images."""
        prefix = f"{root}/" if root else ""
        on_way = {above for folder in {get_parent(file) for file in used} for above in list_parents(folder)}
        used_folders = {get_parent(file) for file in used}
        reasons = {
            folder: "is not used ({} files): validation images are a fold of Training, chosen by patient "
            "(config.data.folds)"
            for _, folder in self.list_splits(root, VALIDATION)
        }
        above_all = f"{self.title}/{root}".rstrip("/")
        for folder in self.all:
            above = list_parents(folder)
            if folder in on_way or any(each in reasons or each in used_folders for each in above):
                continue
            if self.list_splits(folder, TRAINING, TESTING) or len(self.list_classes(folder)) > 1:
                reasons[folder] = f"holds class folders of its own ({{}} files): left out, since {above_all} is used"
            elif get_parent(folder) == root and is_beside_classes(folder) and self.has_images(folder):
                reasons[folder] = "holds {} files without class folders: left out"
        counts = collections.Counter[str]()
        rest = list[str]()
        for folder, files in self.files.items():
            reason = next((each for each in list_parents(folder) if each in reasons), None)
            left = [file for file in files if file not in used and "/" in file.removeprefix(prefix)]
            if reason is not None:
                counts[reason] += len(left)
            else:
                rest += [file for file in left if get_name(file) != groups_table.FILE]
        lines = [f"{self.title}/{folder} {reason.format(counts[folder])}" for folder, reason in reasons.items()]
        if rest:
            lines.append(
                f"{len(rest)} files in {self.title} are not directly in a class folder, such as {min(rest)}: left out"
            )
        by_split = self.list_splits(root, TRAINING, TESTING)
        for split in (TRAINING, TESTING):
            same = [get_name(folder) for each, folder in by_split if each == split]
            if len(same) > 1:
                lines.append(f"{self.title} has several folders that all count as {split}: {', '.join(same)}")
        return lines
