"""The program of a child process that decodes a network stream into a pipe.

It reads its task as one line of JSON from stdin, so that passwords in addresses are in no list of
processes: `url`, `pipe`, `format` and `size`. Each frame in the pipe is a `HEADER` and its bytes.
The last line that it prints says why it failed.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from degmix_edge.capture._av import to_array
from degmix_edge.errors import SourceError

HEADER = struct.Struct("=IIIII")
"""Rows, columns, bytes a pixel (0 of an array of two dimensions), frames that the network lost, and
frames that were not written because the pipe was full."""
OPTIONS = {"rtsp_transport": "tcp"}
"""RTSP inside TCP loses no packets, and passes firewalls. Not `fflags=nobuffer`: it throws away
what was read to recognise the stream, and with it the key frame that decoding begins at. These
frames are not shown late here, because decoding catches up and the newest frame wins."""


def main() -> None:
    """Decode until the stream ends or the pipe is closed."""
    task = json.loads(sys.stdin.readline())
    try:
        _decode(task["url"], task["pipe"], task["format"], task["size"])
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    except SourceError as error:
        sys.exit(str(error))


def _decode(url: str, pipe: int, kind: str, size: tuple[int, int] | None) -> None:
    lost = skipped = 0
    for frame in _frames(url):
        if frame is None or frame.is_corrupt:
            lost += 1
        elif not select.select([], [pipe], [], 0)[1]:
            skipped += 1
        else:
            _write(pipe, to_array(frame, kind, size, "stream"), lost, skipped)
            lost = skipped = 0


def _frames(url: str) -> Iterator[Any]:
    """Frames as they come; None stands for a packet that cannot be decoded."""
    import av

    try:
        with av.open(url, options=OPTIONS) as container:
            if not container.streams.video:
                raise SourceError("there is no video in this stream")
            stream = container.streams.video[0]
            # Threads that decode whole frames would each hold one back.
            stream.thread_type = "SLICE"
            stream.codec_context.flags |= av.codec.context.Flags.low_delay
            for packet in container.demux(stream):
                try:
                    yield from packet.decode()
                except av.error.InvalidDataError:
                    yield None
            # A recording on a server ends. A camera does not: it has been switched off.
            if not container.duration:
                raise SourceError("the stream broke off")
    except av.error.FFmpegError as error:
        raise SourceError(error.strerror) from error


def _write(pipe: int, array: np.ndarray, lost: int, skipped: int) -> None:
    rows, columns, depth = (*array.shape, 0)[:3]
    os.write(pipe, HEADER.pack(rows, columns, depth, lost, skipped))
    view = np.ascontiguousarray(array).reshape(-1).data
    while view:
        view = view[os.write(pipe, view) :]


if __name__ == "__main__":
    main()
