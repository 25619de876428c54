"""Files that a label names otherwise than the disk does: which is meant for certain, which perhaps.

A name is mended only where it can mean exactly one file that nothing else means. The others name
missing files, and a hint says what to look at.
"""

import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """File names that were mended in one and the same way.

    where: the label file, or the class folder; how: what differed; count: lines, or files
    named: the first of them as it is written; found: what it is read as
    """

    where: str
    how: str
    count: int
    named: str
    found: str

    def __str__(self) -> str:
        """Tell it without the name of any file, as it may stand in a report on models."""
        return f"file names mended in {self.where}: {self.count:,} ({self.how})"


class Folder:
    """A split's folder, in which files are found by names that are nearly theirs.

    Found are files whose ending is in the other letter case; whose accents have another Unicode
    form; that lie one folder deeper; and whose name begins with the split's own folder, or is
    written with backslashes.
    """

    def __init__(self, name: str, files: Iterable[str]) -> None:
        self.name = name
        self._places: defaultdict[str, list[str]] = defaultdict(list)
        for path in files:
            for rest in dict.fromkeys((path, _rest(path))):
                self._places[nearly(rest)].append(path)

    def candidates(self, name: str) -> list[str]:
        """Return the files that a name can mean."""
        keys = dict.fromkeys(map(nearly, self._forms(name)))
        return list(dict.fromkeys(path for key in keys for path in self._places.get(key, ())))

    def meant(
        self, names: Mapping[str, Collection[str]], taken: Iterable[str], classes: Mapping[str, str]
    ) -> dict[str, str]:
        """Return name → file for each name that can mean but one file, which no other name means.

        names: name → the classes that its lines give it; taken: names of files that are there;
        classes: folder name in lower case → class. A file whose own folder is of another class
        than its label is not meant for certain.
        """
        found = {name: self.candidates(name) for name in names}
        claims = Counter(path for paths in found.values() for path in paths)
        claims.update(map(posixpath.normpath, taken))
        return {
            name: path
            for name, paths in found.items()
            for path in paths
            if len(paths) == claims[path] == 1
            and classes.get(path.partition("/")[0].lower(), "") in {"", *names[name]}
        }

    def how(self, name: str, path: str) -> str:
        """Say in what a name differs from the file that it means."""
        forms = {nearly(form): form for form in self._forms(name)}
        rest = path if nearly(path) in forms else _rest(path)
        stem, ending = posixpath.splitext(forms[nearly(rest)])
        own_stem, own_ending = posixpath.splitext(rest)
        differs = {
            "backslashes": "\\" in name,
            f"{self.name}/ before the name": forms[nearly(rest)] != _plain(name),
            "letter case of the ending": ending != own_ending,
            "Unicode form": stem != own_stem,
            "one folder deeper": rest != path,
        }
        return ", ".join(words for words, own in differs.items() if own)

    def hint(self, name: str, alike: Collection[str]) -> tuple[str, str]:
        """Return the kind of what a missing name may mean, and a sentence on it; "" for neither.

        alike: files of the data folder whose own names are the same but for case and ending
        """
        paths = [f"{self.name}/{path}".lstrip("/") for path in self.candidates(name)]
        if len(paths) > 1:
            return "several", f"{name!r} can mean {paths[0]!r} or {paths[1]!r}; name the right one"
        if paths:
            reason = "another line names that, too, or its folder is of another class"
            return "claimed", f"{name!r} can mean {paths[0]!r}, but {reason}"
        if not alike:
            return "", ""
        path = min(alike, key=lambda each: not each.startswith(f"{self.name}/"))
        return "alike", f"{name!r} may be {path!r}; correct the labels, or move or rename files"

    def _forms(self, name: str) -> list[str]:
        """Return what a name can be below this folder: it, and what follows the folder's name."""
        plain = _plain(name)
        _, own, after = f"/{plain}".partition(f"/{self.name}/")
        return [plain, after] if own else [plain]


def likeliest(folder: Folder, names: Iterable[str], unread: Iterable[str]) -> str:
    """Return the hint that fits most of the names of missing files, "" where none does.

    unread: the files of the data folder that no line names, relative to it
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for path in unread:
        alike[_own_name(path)].append(path)
    hints: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        kind, hint = folder.hint(name, alike.get(_own_name(_plain(name)), ()))
        hints[kind].append(hint)
    return max(hints.values(), key=len)[0]


def _plain(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _rest(path: str) -> str:
    """Return a path without its first folder."""
    return path.partition("/")[2] or path


def nearly(path: str) -> str:
    """Return what names of one and the same file share."""
    stem, ending = posixpath.splitext(path)
    return unicodedata.normalize("NFC", stem) + ending.lower()


def _own_name(path: str) -> str:
    """Return a file's name alone, without case and ending."""
    stem, _ = posixpath.splitext(posixpath.basename(path))
    return unicodedata.normalize("NFC", stem).casefold()
