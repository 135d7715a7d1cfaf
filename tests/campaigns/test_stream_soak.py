"""A few seconds of the campaign of streams: counts that add up, and ends that leave nothing."""

import dataclasses

import pytest
from stream_soak import ENDINGS, Ending, ending, moving_frames, soak, sources, table

import degmix_edge

pytestmark = pytest.mark.slow(file_seconds=20)


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles["int8"].path


@pytest.mark.parametrize("kind", ["synthetic", "recording", "paced"])
def test_a_slice_with_a_consumer_that_stalls(bundle, tmp_path, kind):
    with degmix_edge.load(bundle, threads=1) as session:
        session(moving_frames(1)[0])
        (source,) = sources(tmp_path, (kind,), recorded_s=1)
        found = soak(session, source, 2.5, stall_s=0.2)
    assert found.wrong_sums == 0
    assert not any(found.left.values()), found.left
    assert found.captured + found.lost >= 60
    assert found.captured == found.delivered + sum(found.dropped.values())
    assert found.dropped["newer result"] > 0
    assert 0 < found.age_p50_ms <= found.age_p95_ms
    # The machine of a test is busy, so that only what is far beyond the limit counts here.
    assert found.age_p95_ms < 3 * found.age_limit_ms
    assert table([found], []).splitlines()[1].startswith(source.name.rpartition("/")[2])


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_is_quick_and_leaves_nothing(bundle, how):
    found = ending(bundle, how)
    assert found.problems == []
    assert f"{how}: stopped after" in table([], [found])


def test_what_is_wrong_is_said():
    found = Ending("SIGINT", 2.5, 0, {"threads": ["degmix-camera"], "files": [], "children": []})
    assert len(found.problems) == 3
    good = dataclasses.replace(found, seconds=0.1, code=130, left={})
    assert good.problems == []
