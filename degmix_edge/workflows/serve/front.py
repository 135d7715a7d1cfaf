"""HTTP in front of the sessions: it checks requests, keeps deadlines and counts answers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.metrics import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from degmix_edge.errors import ConfigError
from degmix_edge.workflows.serve.exchange import (
    BUNDLE_HEADER,
    DEADLINE,
    MAPS_PATH,
    MOST_BYTES,
    QUEUE,
    VERSION_HEADER,
    Answer,
    Request,
    describe_network,
    read_request,
    refusal,
)
from degmix_edge.workflows.serve.options import Served

APPLICATION, SESSIONS, FRONT = "degmix", "Sessions", "Front"
"""How Ray Serve calls the application and its deployments."""


class Front:
    """A deployment of Ray Serve: the routes of the server.

    Args:
        sessions: The handle of the sessions.
        served: What is served.
    """

    def __init__(self, sessions: Any, served: Served) -> None:
        self.sessions, self.served = sessions, served
        self.stamp = {VERSION_HEADER: served.version, BUNDLE_HEADER: served.digest}
        self._answers = Counter(
            "degmix_answers", "Answers about images, by cause.", tag_keys=("cause",)
        )

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the routes; Ray Serve calls this."""
        return Starlette(
            routes=[
                Route(MAPS_PATH, self.maps, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/", self.about),
            ],
            exception_handlers={HTTPException: self.no_route, Exception: self.bug},
        )

    async def maps(self, http: HttpRequest) -> Response:
        """Answer with the maps of the image in the body, or with the reason why there are none."""
        arrived = time.monotonic()
        try:
            request = read_request(
                http.query_params, self.served.network, self.served.options.deadline_ms
            )
            answer = await self._answer(http, request, arrived)
        except ConfigError as error:
            answer = refusal("request", error)
        self._answers.inc(tags={"cause": answer.cause or "none"})
        return self._response(answer)

    async def _answer(self, http: HttpRequest, request: Request, arrived: float) -> Answer:
        image = await _body(http)
        if image is None:
            return refusal("size", f"the image has more than {MOST_BYTES:,} bytes; send a smaller")
        if not image:
            return refusal("image", "the body is empty, expected the bytes of a JPEG or PNG file")
        left_s = request.deadline_ms / 1e3 - (time.monotonic() - arrived)
        late = refusal(DEADLINE, f"the deadline of {request.deadline_ms:g} ms has passed")
        if left_s <= 0:
            return late
        response = self.sessions.maps.remote(image, request)
        try:
            return await asyncio.wait_for(_result(response), left_s)
        except (TimeoutError, asyncio.TimeoutError):
            response.cancel()  # it is dropped if it still waits
            return late
        except BackPressureError:
            waiting = self.served.options.queue
            return refusal(QUEUE, f"{waiting} images are waiting already; try again later")
        except (RayError, RayServeException) as error:
            first = str(error).strip().splitlines()[0]
            return refusal("replica", f"the replica that had this image has ended: {first}")

    async def healthz(self, request: HttpRequest) -> Response:
        """Answer 200: the server lives."""
        return self._plain({"status": "ok"})

    async def readyz(self, request: HttpRequest) -> Response:
        """Answer 200 where at least one session runs, else 503."""
        status: Any = await asyncio.to_thread(serve.status)
        states = status.applications[APPLICATION].deployments[SESSIONS].replica_states
        running = states.get("RUNNING", 0)
        return self._plain({"replicas": running}, 200 if running else 503)

    async def about(self, request: HttpRequest) -> Response:
        """Answer with what is served."""
        known = {"version": self.served.version, "bundle": self.served.digest}
        return self._plain(known | describe_network(self.served.network))

    async def bug(self, request: HttpRequest, error: Exception) -> Response:
        """Answer 500 after an error that is none of ours; Ray Serve logs it."""
        self._answers.inc(tags={"cause": "server"})
        answer = refusal("server", f"{type(error).__name__}: {error}")
        return self._response(answer)

    async def no_route(self, request: HttpRequest, error: Exception) -> Response:
        """Answer to a path or a method that does not exist."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        have = f"POST {MAPS_PATH}, GET /, GET /healthz, GET /readyz"
        message = f"no {request.method} {request.url.path}. Have: {have}"
        return self._plain({"error": {"cause": "route", "message": message}}, status)

    def _response(self, answer: Answer) -> Response:
        return Response(answer.body, answer.status, {**self.stamp, **answer.headers})

    def _plain(self, values: dict[str, Any], status: int = 200) -> Response:
        return Response(json.dumps(values), status, self.stamp, "application/json")


async def _result(response: Any) -> Answer:
    answer: Answer = await response
    return answer


async def _body(request: HttpRequest) -> bytes | None:
    """The body of a request, or None where it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)
