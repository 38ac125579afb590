"""Parts of a set: folders on top that are called train, test, val, or as people call them.

    train    train, training, trn          test    test, testing, tst
    valid    val, valid, validation, validate, dev, development, eval, evaluation

Names are folded. The folders are parts where every folder on top has such a name, or where there are two different
parts among them; a picture that lies in none is left aside and said. Where a folder of that name is none (it stands
alone among classes, or within one), that is said too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sfumato.core.errors import UnknownName
from sfumato.core.registry import nearest

NAMES = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "valid": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
}
PARTS = {word: part for part, words in NAMES.items() for word in words}
Key = tuple[str, str]  # (shard, path)


def part_of(folder: str) -> str | None:
    return PARTS.get(folder.casefold())


class Parts:
    """`paths` of the pictures (or other files) that the asked part has, without the folders that all share; `aside`,
    `held` (how many each other part has) and `warnings` say what was not taken."""

    def __init__(self, keys: Iterable[Key], split: str, name: str, noun: str = "pictures"):
        self._noun = noun
        paths = look_through({key: key[1] for key in keys}, stop=True)
        tops = {path.partition("/")[0] for path in paths.values() if "/" in path}
        found = {part for top in tops if (part := part_of(top))}
        self.aside: set[Key] = set()
        self.held: dict[str, int] = {}
        self.warnings: list[str] = []
        if found and (len(found) > 1 or all(map(part_of, tops))):
            if split != "all" and split not in found:
                raise UnknownName(f"{name} has no part called {split!r}. {nearest(split, found)}")
            paths = self._taken(paths, split)
        else:
            if split not in ("train", "all"):
                words = f"put the {noun} into folders train/ and {split}/"
                raise UnknownName(f"{name} has no part called {split!r}: {words}.")
            self._unused(paths, tops)
        self.paths = look_through(paths)

    def _taken(self, paths: Mapping[Key, str], split: str) -> dict[Key, str]:
        taken = {}
        for key, path in paths.items():
            top, slash, rest = path.partition("/")
            part = part_of(top) if slash else None
            if part is None:
                self.aside.add(key)
            elif split in ("all", part):
                taken[key] = rest
            else:
                self.held[part] = self.held.get(part, 0) + 1
        if self.aside:
            first = min(path for key, path in paths.items() if key in self.aside)
            self.warnings.append(
                f"{len(self.aside)} {self._noun} lie beside the parts ({first}, …) and are left aside; put them into "
                "one."
            )
        return taken

    def _unused(self, paths: Mapping[Key, str], tops: set[str]) -> None:
        alone = sorted(top for top in tops if part_of(top))
        if alone:
            one = "a class" if self._noun == "pictures" else "one"
            self.warnings.append(
                f"The folder {alone[0]}/ is taken for {one} like the others beside it, since no other part is there; "
                "put train/ and test/ on top if they are parts."
            )
        deeper = {path.split("/")[i] for path in paths.values() for i in range(1, path.count("/"))}
        within = sorted(folder for folder in deeper if part_of(folder) in ("test", "valid"))
        if within:
            self.warnings.append(
                f"Folders called {within[0]}/ lie within others and are not used as parts: their {self._noun} are "
                "among the rest. Put train/ and test/ on top."
            )


def look_through(paths: Mapping[Key, str], stop: bool = False) -> dict[Key, str]:
    """The paths without the folders that all share; `stop` before one that is called like a part."""
    paths = dict(paths)
    split = [path.split("/")[:-1] for path in paths.values()]
    shared = 0
    while split and all(len(folders) > shared and folders[shared] == split[0][shared] for folders in split):
        if stop and part_of(split[0][shared]):
            break
        shared += 1
    return {key: path.split("/", shared)[shared] for key, path in paths.items()} if shared else paths
