"""What every file of a registry defines, and what each registry answers to a wrong name."""

import pytest
from degmix_calibration import observers
from degmix_training import authors, data, models

from degmix_edge import backends, metrics, registry, tasks
from degmix_edge.errors import ConfigError

FINDERS = [
    (tasks, "task"),
    (metrics, "metric"),
    (backends, "backend"),
    (observers, "observer"),
    (models, "model"),
    (data, "data set"),
    (authors, "importer"),
]


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in registry.KINDS for name in registry.names(package)],
)
def test_a_file_defines_what_its_kind_says(package: str, name: str):
    kind, module = registry.KINDS[package], registry.find(package, name)
    assert [part for part in kind.defines if not hasattr(module, part)] == []
    if kind.is_named:
        assert getattr(module, kind.defines[0]).name == name


@pytest.mark.parametrize(("package", "word"), FINDERS, ids=[word for _, word in FINDERS])
def test_a_registry_lists_its_files_and_finds_each(package, word: str):
    have = registry.names(package.__name__)
    assert package.names() == have
    for name in have:
        assert package.find(name) is not None
    with pytest.raises(ConfigError, match=f"no {word} 'xyzzy'. Have: {', '.join(have)}") as caught:
        package.find("xyzzy")
    assert f"If another package defines this {word}, install that package." in str(caught.value)
    with pytest.raises(ConfigError, match=rf"Did you mean '{have[0]}'\?$"):
        package.find(have[0] + "x")


def test_modules_are_imported_in_turn():
    assert [name for name, _ in registry.modules("degmix_edge.metrics")] == metrics.names()
    name, module = next(registry.modules("degmix_edge.metrics"))
    assert module is registry.find("degmix_edge.metrics", name)


def test_a_folder_that_is_no_kind_takes_files_only():
    with pytest.raises(ConfigError, match=r"no op 'deform'. Have: deform_conv2d.*'\?$"):
        registry.find("degmix_edge.ops", "deform")
