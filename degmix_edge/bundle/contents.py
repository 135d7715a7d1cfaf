"""The bundle, a folder that a robot opens.

    robot.degmix/
      manifest.json       description of the bundle, with the SHA-256 of every other file
      manifest.sha256     the SHA-256 of the manifest, as `sha256sum` writes it
      manifest.sig        who made the bundle, if somebody signed it
      model.onnx          the product: uint8 image in, maps out, precision inside
      recipe.yaml         each weighted node's precision and the reason for it
      ranges.json         the ranges that calibration measured (INT8)
      golden.npz          one image and the maps that it must give
      engines/BACKEND/    the engine that a backend built from model.onnx; only a cache
      card.md             a description for people

A bundle for several sizes of image has `model.448x672.onnx` and the like for each size but the
first, and weights.bin with the weights of all ONNX files, which are equal for the most part.

A bundle is written to a hidden folder and put in place when it is complete.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from degmix_edge import config
from degmix_edge.bundle.manifest import (
    DIGEST,
    MANIFEST,
    MODEL,
    OF_ONE_SIZE,
    RANGES,
    RECIPE,
    SIGNATURE,
    WEIGHTS,
    Manifest,
    digest_line,
    parse_manifest,
    size_text,
    sized,
)
from degmix_edge.bundle.reading import open_folder, read_file
from degmix_edge.bundle.ready import located
from degmix_edge.errors import BundleError, ConfigError, OutputError
from degmix_edge.files import sha256
from degmix_edge.folders import is_there, recover
from degmix_edge.graph.shared_weights import put_weights_back
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.ranges import parse as parse_ranges
from degmix_edge.quant.recipe import Recipe

ATTEMPTS = 50
"""A bundle that is replaced while it is read is read again, at most so often."""


class Bundle:
    """An opened bundle, in which every file exists and has the hash that the manifest states.

    Attributes:
        path: The folder.
        manifest: What the bundle says of itself.
        digest: SHA-256 of `manifest.json`. Two bundles of one digest have the same bytes.
        signature: The bytes of `manifest.sig`, which `signing` checks; None if it is not signed.
    """

    def __init__(
        self, path: Path, manifest: Manifest, digest: str, contents: Mapping[str, bytes]
    ) -> None:
        self.path, self.manifest, self.digest = path, manifest, digest
        self.signature: bytes | None = None
        self._contents = dict(contents)
        self._paths: dict[str, str] = {}
        self._whole = self

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width in pixels of every size that the bundle has, the first one first."""
        return self._whole.manifest.all_sizes

    @property
    def chosen_size(self) -> tuple[int, int] | None:
        """The size that `at` has chosen; None where nothing was chosen."""
        return None if self is self._whole else self.manifest.fit.size

    def at(self, size: tuple[int, int] | None) -> Bundle:
        """Return one size of this bundle, as a bundle that has this size alone.

        Its `manifest` and the files that it reads by the usual names, such as `model.onnx`, are of
        this size. Both share the memory that `release` frees.

        Args:
            size: Height and width in pixels; None returns the bundle itself, whose manifest and
                usual names are those of its first size.

        Raises:
            ConfigError: The bundle has no such size.
        """
        if size is None:
            return self
        whole, chosen = self._whole, (size[0], size[1])
        if chosen not in self.sizes:
            have = ", ".join(map(size_text, self.sizes))
            raise ConfigError(
                f"{self.path}: has no size {size_text(chosen)}, it has {have}; give one of these, "
                f"into which images of any size are fitted, or build it with --size "
                f"{size_text(chosen)} too"
            )
        one = Bundle(self.path, whole.manifest.at(chosen), self.digest, {})
        one.signature, one._contents, one._whole = self.signature, self._contents, whole
        if chosen != self.sizes[0]:
            one._paths = {name: sized(name, chosen) for name in OF_ONE_SIZE}
        return one

    def onnx(self, name: str = MODEL) -> bytes:
        """Return the bytes of an ONNX file with all its weights inside.

        They come from the bundle's own file of weights, if it has one, and from nowhere else.

        Raises:
            BundleError: As `read`.
            GraphError: A tensor lies in another file, or outside of it.
        """
        model = self.read(name)
        if WEIGHTS not in self.manifest.files:
            return model
        where = f"{self.path}/{self._paths.get(name, name)}"
        return put_weights_back(model, self.read(WEIGHTS), WEIGHTS, where)

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`: exactly those that were hashed.

        Raises:
            BundleError: The manifest does not list this file, or after `release` the file on disk
                is no longer what was opened.
        """
        self.file(name)
        path = self._paths.get(name, name)
        data = self._contents.get(path)
        if data is not None:
            return data
        with open_folder(self.path) as folder:
            return _listed(folder, path, self.manifest.files[name], self.path)

    def file(self, name: str) -> Path:
        """Return the path of the file `name`, for people and for other programs.

        Raises:
            BundleError: The manifest does not list this file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: has no file {name!r}")
        return self.path / self._paths.get(name, name)

    def release(self) -> None:
        """Free the memory of the files; `read` reads and checks them again."""
        self._contents.clear()

    @property
    def size_bytes(self) -> int:
        """The total size of all files in the folder, in bytes.

        Raises:
            BundleError: The folder cannot be read any more.
        """
        try:
            return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())
        except OSError as error:
            raise BundleError(f"{self.path}: cannot be read: {error.strerror}") from None


def open_bundle(path: Path) -> Bundle:
    """Read and verify the bundle at `path`. Every file is read once, and what was read is kept.

    Where there is nothing at `path`, it may be the name of a bundle of the package: `degmix_tiny`.

    Raises:
        BundleError: It is not a bundle, its schema is another one, or a file is missing or was
            changed.
    """
    path = located(path)
    for _ in range(ATTEMPTS):
        with contextlib.suppress(OutputError):  # a reader may not be allowed to write there
            recover(path)
        replaced = None
        try:
            with open_folder(path) as folder:
                try:
                    return _verified(folder, path)
                except BundleError:
                    # While it is open, no other folder can get its number.
                    replaced = _was_replaced(os.fstat(folder), path)
                    raise
        except BundleError as error:
            failure = error
            if not (is_there(path) if replaced is None else replaced):
                raise  # nobody replaces it: it is damaged, or there is none
    raise failure


def open_same(path: Path, digest: str) -> Bundle:
    """Open a bundle that another process has opened before.

    Raises:
        BundleError: It has another digest now, or it cannot be opened.
    """
    opened = open_bundle(path)
    if opened.digest != digest:
        raise BundleError(
            f"{path}: was replaced during the run: its digest is {opened.digest[:12]}, the run "
            f"began with {digest[:12]}; put that bundle back and run the command again"
        )
    return opened


def _was_replaced(opened: os.stat_result, path: Path) -> bool:
    """Whether the folder at `path` is another one than that which was opened, or is gone."""
    try:
        return not os.path.samestat(opened, path.stat())
    except OSError:
        return is_there(path)


def _verified(folder: int, path: Path) -> Bundle:
    manifest, digest = _manifest(folder, path)
    contents = {name: _listed(folder, name, want, path) for name, want in manifest.files.items()}
    bundle = Bundle(path, manifest, digest, contents)
    with contextlib.suppress(FileNotFoundError):
        bundle.signature = read_file(folder, SIGNATURE, limit="text_bytes", where=path)
    return bundle


def _manifest(folder: int, path: Path) -> tuple[Manifest, str]:
    """The manifest, once its own hash is right, and that hash."""
    try:
        data = read_file(folder, MANIFEST, limit="text_bytes", where=path)
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no {MANIFEST} in it: not a bundle, or an unfinished one"
        ) from None
    digest = sha256(data)
    try:
        line = read_file(folder, DIGEST, limit="text_bytes", where=path)
    except FileNotFoundError:
        parse_manifest(data, path)  # one of an older schema says so
        raise BundleError(f"{path}: {DIGEST} is missing; copy the bundle again, whole") from None
    if line != digest_line(digest):
        raise _changed(path, MANIFEST, digest, line[:64].decode("ascii", "replace"), DIGEST)
    return parse_manifest(data, path), digest


def _listed(folder: int, name: str, expected: str, path: Path) -> bytes:
    """The bytes of a file that the manifest lists, if they have the hash that it states."""
    try:
        data = read_file(folder, name, limit="file_bytes", where=path)
    except FileNotFoundError:
        raise BundleError(
            f"{path}: file {name!r} is missing; copy the bundle again, whole"
        ) from None
    if (got := sha256(data)) != expected:
        raise _changed(path, name, got, expected, "the manifest")
    return data


def _changed(path: Path, name: str, got: str, expected: str, by: str) -> BundleError:
    return BundleError(
        f"{path}: file {name!r} was changed: SHA-256 {got[:12]}, {by} says {expected[:12]}; copy "
        "or build the bundle again"
    )


def recipe_and_ranges(opened: Bundle) -> tuple[Recipe, Ranges | None]:
    """Return the recipe and the ranges from which an engine is built, besides model.onnx.

    Raises:
        BundleError: They cannot be read.
    """
    try:
        recipe = config.parse_text(Recipe, opened.read(RECIPE), f"{opened.path}/{RECIPE}")
        ranges = None
        if RANGES in opened.manifest.files:
            ranges = parse_ranges(opened.read(RANGES), f"{opened.path}/{RANGES}")
    except ConfigError as error:
        raise BundleError(str(error)) from None
    return recipe, ranges
