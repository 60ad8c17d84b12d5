"""A search service over HTTP that has its embeddings made by Alcedo over gRPC.

What it shows, because every service in front of a model server needs it:
- one deadline for each HTTP request, spent by whatever calls it needs: it is the gRPC deadline of the call, and the
  `timeout` request parameter tells the server's queue of it;
- a limit on calls in flight, with an immediate 429 beyond it, so that a slow server does not fill this process;
- gRPC status codes turned into HTTP status codes in one place;
- readiness that follows the model server's.

    uvicorn --app-dir examples/orchestration service:app

Environment: ALCEDO_URL (localhost:8001), ALCEDO_MODEL (minilm), SEARCH_DEADLINE_SECS (2.0), SEARCH_CONCURRENCY (32).
"""

import asyncio
import contextlib
import os
import pathlib
import time

import numpy as np
import tritonclient.grpc.aio as triton
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from tritonclient.utils import InferenceServerException

PASSAGES = pathlib.Path(__file__).with_name("passages.txt")

# Longest text that is passed on, in characters, and most texts in one request.
MAX_TEXT_CHARACTERS, MAX_TEXTS = 10_000, 64

# The HTTP status of each gRPC status that a call can end with; what is not listed is a fault of the server: 502.
HTTP_STATUS = {
    "StatusCode.INVALID_ARGUMENT": 400,
    "StatusCode.NOT_FOUND": 404,
    "StatusCode.RESOURCE_EXHAUSTED": 429,
    "StatusCode.CANCELLED": 499,
    "StatusCode.UNIMPLEMENTED": 501,
    "StatusCode.UNAVAILABLE": 503,
    "StatusCode.DEADLINE_EXCEEDED": 504,
}


class EmbedRequest(BaseModel):
    """Texts to embed."""

    texts: list[str] = Field(min_length=1, max_length=MAX_TEXTS)


class Overloaded(Exception):
    """As many calls are in flight as are allowed."""


class Encoder:
    """Calls one sentence encoder, with a deadline for each call and a limit on calls in flight."""

    def __init__(self, client, model, concurrency):
        self._client = client
        self._model = model
        self._free = asyncio.Semaphore(concurrency)

    async def ready(self):
        """Whether the model can answer now."""
        try:
            return await self._client.is_model_ready(self._model, client_timeout=1.0)
        except InferenceServerException:
            return False

    async def embed(self, texts, deadline):
        """Return FP32 [texts, width]. `deadline` is a time of the monotonic clock."""
        if self._free.locked():
            raise Overloaded
        async with self._free:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise InferenceServerException("the deadline was over before the call", "StatusCode.DEADLINE_EXCEEDED")
            tensor = triton.InferInput("TEXT", [len(texts), 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode("utf-8")] for text in texts], dtype=np.object_))
            result = await self._client.infer(
                self._model, [tensor], timeout=int(left_s * 1e6), client_timeout=left_s)
            return result.as_numpy("EMBEDDING")


class Index:
    """Passages and their embeddings, made at the first search that finds the model ready."""

    def __init__(self, encoder, passages):
        self._encoder = encoder
        self._passages = passages
        self._embeddings = None
        self._building = asyncio.Lock()

    async def search(self, text, count, deadline):
        """Return the `count` passages nearest to the text, best first."""
        async with self._building:
            if self._embeddings is None:
                self._embeddings = await self._encoder.embed(self._passages, deadline)
        (query,) = await self._encoder.embed([text], deadline)
        scores = self._embeddings @ query
        best = np.argsort(-scores)[:count]
        return [{"passage": self._passages[place], "score": float(scores[place])} for place in best]


def read_passages():
    """Return the committed passages."""
    return [line for line in PASSAGES.read_text(encoding="utf-8").splitlines() if line]


@contextlib.asynccontextmanager
async def lifespan(app):
    """Hold one channel to the model server for the life of this process."""
    client = triton.InferenceServerClient(os.environ.get("ALCEDO_URL", "localhost:8001"))
    encoder = Encoder(client, os.environ.get("ALCEDO_MODEL", "minilm"), int(os.environ.get("SEARCH_CONCURRENCY", 32)))
    app.state.encoder = encoder
    app.state.index = Index(encoder, read_passages())
    app.state.deadline_secs = float(os.environ.get("SEARCH_DEADLINE_SECS", 2.0))
    try:
        yield
    finally:
        await client.close()


app = FastAPI(title="Search over Alcedo", lifespan=lifespan)


@app.exception_handler(InferenceServerException)
async def refused(_, error):
    """Answer with the HTTP status that fits the gRPC status."""
    return JSONResponse({"error": error.message()}, HTTP_STATUS.get(error.status(), 502))


@app.exception_handler(Overloaded)
async def overloaded(_, __):
    """Refuse at once what could only wait."""
    return JSONResponse({"error": "too many requests are in flight, try again"}, 429, {"Retry-After": "1"})


@app.get("/health/live")
async def live():
    """This process runs."""
    return {"live": True}


@app.get("/health/ready")
async def ready(request: Request):
    """The model server is there and its model can answer."""
    if await request.app.state.encoder.ready():
        return {"ready": True}
    return JSONResponse({"ready": False}, 503)


@app.get("/search")
async def search(request: Request, text: str = Query(min_length=1, max_length=MAX_TEXT_CHARACTERS),
                 count: int = Query(3, ge=1, le=20)):
    """Find the passages nearest to a text."""
    state = request.app.state
    return {"results": await state.index.search(text, count, time.monotonic() + state.deadline_secs)}


@app.post("/embed")
async def embed(request: Request, body: EmbedRequest):
    """Return the embedding of each text."""
    state = request.app.state
    embeddings = await state.encoder.embed(body.texts, time.monotonic() + state.deadline_secs)
    return {"embeddings": embeddings.tolist()}
