"""Files that are whole or not there."""

import pytest

from degmix_edge.errors import OutputError
from degmix_edge.files import whole_file


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_of_a_file_that_was_interrupted(tmp_path, stop):
    path = tmp_path / "x.json"
    path.write_text("old")

    def interrupted():
        with whole_file(path) as part:
            part.write_text("half")
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "old"


def test_a_process_that_only_takes_part_leaves_the_writers_file_alone(tmp_path):
    path = tmp_path / "last.ckpt"
    with whole_file(path, mine=False) as part:
        part.write_text("the writer's")
    assert part.read_text() == "the writer's"
    assert not path.exists()
    with whole_file(path) as part:
        part.write_text("the writer's")
    assert path.read_text() == "the writer's"
    assert not part.exists()


def test_a_folder_that_cannot_be_written_to_is_an_output_error(tmp_path):
    with (
        pytest.raises(OutputError, match=r"x\.json: cannot be written"),
        whole_file(tmp_path / "missing" / "x.json") as part,
    ):
        part.write_text("x")
