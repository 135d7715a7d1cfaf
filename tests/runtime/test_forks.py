"""Sessions in forks and other processes, and calls that take too long."""

import multiprocessing
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from degmix_edge import backends
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.runtime import Session, load


def in_fork(function) -> str:
    """What `function` says in a fork of this process; it must come back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = str(function())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(pid, 0)
    return said


def test_a_fork_says_what_to_do(bundles, pictures):
    with load(bundles["fp32"].path) as session:
        session(pictures[0])
        for call in (
            lambda: session(pictures[0]),
            lambda: session.submit(pictures[0]).result(),
            lambda: session([pictures[0]]),
        ):
            said = in_fork(call)
            assert said.startswith("BackendError: onnxruntime: the session was made by process")
            assert "call `load` in each process, or start processes with `spawn`" in said
        session(pictures[0])  # and here it goes on


def depth_of(session, picture, queue):
    with session:
        queue.put(np.asarray(session(picture)["depth"]))


@pytest.mark.slow
def test_a_session_goes_to_a_process_that_is_spawned(bundles, pictures):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with load(bundles["fp32"].path, threads=1) as session:
        arguments = (session, pictures[0], queue)
        child = context.Process(target=depth_of, args=arguments)
        child.start()
        there = queue.get(timeout=60)
        child.join(60)
        np.testing.assert_allclose(there, session(pictures[0])["depth"], rtol=1e-5)


def test_a_pickled_session_is_loaded_in_the_same_way(bundles, pictures):
    with load(bundles["fp32"].path, threads=2, timeout_s=60) as session:
        with pickle.loads(pickle.dumps(session)) as again:
            assert again.backend.threads == 2
            assert again.backend.timeout_s == 60
            np.testing.assert_array_equal(
                again(pictures[0])["depth"], session(pictures[0])["depth"]
            )
        opened = backends.find("onnxruntime")(session.spec, session.backend.engine)
        with Session(opened, session.fit) as own, pytest.raises(TypeError, match="`load` made"):
            pickle.dumps(own)


def test_a_call_that_takes_too_long_is_ended(bundles, pictures):
    with load(bundles["fp32"].path, threads=1, timeout_s=1e-4) as session:
        start = time.monotonic()
        calls = (session(pictures[0]) for _ in range(100))
        with pytest.raises(BackendError, match="no result after 0.0001 s, this session's timeout"):
            list(calls)
        assert time.monotonic() - start < 10
        session.backend.timeout_s = None
        assert session(pictures[0])  # the session is not hurt by it
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="timeout_s: got .*, expected seconds above 0"):
            load(bundles["fp32"].path, timeout_s=wrong)


def test_a_call_that_runs_is_ended_from_another_thread(bundles, pictures):
    with load(bundles["fp32"].path, threads=1) as session, ThreadPoolExecutor(1) as pool:
        session.backend.cancel()  # nothing runs, so nothing happens
        assert session(pictures[0])

        def call():
            while True:
                session(pictures[0])

        future = pool.submit(call)
        deadline = time.monotonic() + 30
        while not future.done():
            assert time.monotonic() < deadline
            session.backend.cancel()
        with pytest.raises(BackendError, match="onnxruntime: the call was cancelled"):
            future.result()
        assert session(pictures[0])  # the session is not hurt by it
