"""The image files that the rows of a table mean, and what was passed over to find them."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.core.errors import UserError
from tlab.core.text import counted, few
from tlab.data.sources.image_names import ImageNames, Match, is_absolute
from tlab.data.sources.label_table import LabelTable
from tlab.data.sources.scan import Exclude, image_files
from tlab.data.sources.table_advice import first_cells, nothing_found


class TableImages:
    """Finds the images of a table, as paths relative to the root of the data (absolute for a file elsewhere).

    Args:
        table: The table.
        base: Absolute root of the data.
        folder: Absolute folder of the images.
        left_out: Patterns of what is left out below the root.
        extension: See `ImageNames`.
        files: POSIX paths of the images, relative to the folder; None: all that lie below it.
    """

    def __init__(
        self,
        table: LabelTable,
        base: Path,
        folder: Path,
        left_out: Exclude,
        extension: str | None,
        files: Sequence[str] | None = None,
    ) -> None:
        self.table, self.base, self.folder, self._left_out = table, base, folder, left_out
        away = Path(os.path.relpath(folder, base))
        if away.parts[:1] == ("..",):  # behind a link, `..` is not what the text says
            away = Path(os.path.relpath(folder.resolve(), base.resolve()))
        self._prefix = "" if folder == base else f"{away.as_posix()}/"
        listed = image_files(folder) if files is None else files
        gone = {file for file in listed if left_out.file(self._prefix + file)} if left_out.patterns else set()
        self._kept = ImageNames(folder, [file for file in listed if file not in gone], extension)
        self._gone = ImageNames(folder, [file for file in listed if file in gone], extension)
        self._is_folder = cache(os.path.isdir)  # of very many names in a few folders that are not there

    def locate(self, names: Sequence[str], image_column: str) -> tuple[dict[str, str], list[str]]:
        """Return name -> file, and sentences on what was passed over, and on the names of `find` without one.

        Raises:
            UserError: A name may be several files, or no name is a file.
        """
        files, missing, sentences = self.find(names)
        if missing and not files:
            raise UserError(self.none_found(image_column, missing))
        return files, [*sentences, *self._missing([*dict.fromkeys(names)], missing)]

    def find(self, names: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
        """Return name -> file, the names without one that are not excluded, and what was passed over.

        Raises:
            UserError: A name may be several files.
        """
        names = [*dict.fromkeys(names)]
        matches, files, missing = self._kept.match_all(names), {}, []
        excluded = self._gone.match_all(name for name in names if name not in matches) if self._gone.files else {}
        for name in names:
            match = matches.get(name)
            certain = match and not match.other_extension and not (match.missed and is_absolute(name))
            path = None if certain or name in excluded else self._file_itself(name)
            # unless by another way, such as a link
            if path and not (match and os.path.samefile(path, self.folder / match.files[0])):  # noqa: PTH121
                matches.pop(name, None)
                file = self._name_of(path, name)
                if not self._left_out.file(file):
                    files[name] = file
            elif match is not None:
                files[name] = self._prefix + match.files[0]
            elif name not in excluded and not self._left_out.file(self._prefix + name):
                missing.append(name)
        if doubtful := {name: match for name, match in matches.items() if len(match.files) > 1}:
            raise UserError(self._doubt(doubtful))
        return files, missing, [*self._passed_over(matches, files)]

    def column_of_images(self) -> str:
        """Return the column of the table of whose first cells the most name an image; else the first one."""
        found = {
            name: len(self._kept.match_all(cells)) or sum(self._file_itself(cell) is not None for cell in cells)
            for name, cells in first_cells(self.table).items()
        }
        return max(found, key=found.__getitem__)

    def none_found(self, image_column: str, missing: Sequence[str]) -> str:
        """Return the sentence on a table none of whose names is a file."""
        return nothing_found(self.base, self.table, self._kept, image_column, missing)

    def knows(self, name: str) -> bool:
        """Tell whether an image in the folder has this name."""
        return bool(self._kept.match_all([name]))

    def _file_itself(self, name: str) -> str | None:
        """Return the absolute path of the file with this name, whether or not it looks like an image."""
        for folder in (self.folder, self.base, self.table.file.parent):
            path = os.path.normpath(os.path.join(folder, os.path.expanduser(name)))  # noqa: PTH111, PTH118
            if self._is_folder(os.path.dirname(path)) and os.path.isfile(path):  # noqa: PTH113, PTH120
                return path
        return None

    def _name_of(self, path: str, name: str) -> str:
        for start, prefix in ((self.folder, self._prefix), (self.base, "")):
            if path.startswith(f"{start}/"):
                return prefix + path.removeprefix(f"{start}/")
        return path if is_absolute(name) else os.path.relpath(path, self.base)

    def _passed_over(self, matches: Mapping[str, Match], files: Mapping[str, str]) -> Iterator[str]:
        """Yield sentences on what was passed over in the names to find their files."""
        for what, names in {
            "without the first folders of their paths": [name for name, match in matches.items() if match.missed],
            "with another extension": [name for name, match in matches.items() if match.other_extension],
        }.items():
            if names:
                first = f"{names[0]!r} as {files[names[0]]}"
                yield f"{counted(names, 'image')} of {self.table.file} found {what}: {first}."

    def _missing(self, names: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
        if not missing:
            return
        everywhere = ImageNames(self.base, image_files(self.base)).match_all(names) if self._prefix else {}
        more = [name for name in missing if name in everywhere]
        hint = f"; {shell_argument('data.images', '.')} finds {len(more)} of them" if more else ""
        what, are = counted(missing, "image", "images"), "is" if len(missing) == 1 else "are"
        yield f"{what} of {self.table.file} {are} not in {self.folder} and not used: {few(missing)}{hint}."

    def unlabeled(self, files: Iterable[str], unused: Iterable[str]) -> Iterator[str]:
        """Yield a sentence on the images in the folder that no row names.

        Args:
            files: Files of the rows that are used.
            unused: Names in the other rows.
        """
        named = {*files, *(self._prefix + file for m in self._kept.match_all(unused).values() for file in m.files)}
        if rest := [file for file in self._kept.files if self._prefix + file not in named]:
            what, are = counted(rest, "image", "images"), "is" if len(rest) == 1 else "are"
            yield f"{what} in {self.folder} {are} in no row of {self.table.file} and not used: {few(rest)}."

    def _doubt(self, doubtful: Mapping[str, Match]) -> str:
        """Return the sentence on names that may be several files, with the argument that leaves one for each."""
        name, match = next(iter(doubtful.items()))
        what = f"{name!r} of {self.table.file} may be {' or '.join(sorted(match.files))} in {self.folder}"
        more = f" ({len(doubtful) - 1} more are in doubt)" if len(doubtful) > 1 else ""
        folder_of = {file: file.rpartition("/")[0] for each in doubtful.values() for file in each.files}
        if all(len({folder_of[file] for file in each.files}) == 1 for each in doubtful.values()):
            kinds = Counter(Path(file).suffix for file in folder_of)
            return f"{what}{more}: say which with {shell_argument('data.extension', kinds.most_common(1)[0][0])}"
        count = Counter(folder_of.values())
        order = sorted(count, key=lambda each: (-count[each], each.count("/"), each))
        spare: dict[str, list[str]] = defaultdict(list)
        for each in doubtful.values():
            for file in sorted(each.files, key=lambda file: (order.index(folder_of[file]), file))[1:]:
                spare[folder_of[file]].append(file)
        size = Counter(file.rpartition("/")[0] for file in self._kept.files)
        whole = [folder for folder, files in spare.items() if folder and len(files) == size[folder]]
        alone = [file for folder, files in spare.items() if folder not in whole for file in files]
        patterns = [self._prefix + each for each in (*whole, *alone)]
        return f"{what}{more}: leave out the others, for example with {exclude_argument(patterns)}"
