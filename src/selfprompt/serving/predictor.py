"""From the bytes of uploaded images to predictions: decoding in a few threads, the model in one."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from selfprompt.data.loading.image_inputs import decode_bytes
from selfprompt.data.loading.memory_limit import DecodingLimit
from selfprompt.inference.answers import Model, open_view
from selfprompt.inference.predictions import Prediction, Request
from selfprompt.serving.batcher import Batcher

AHEAD = 4
"""Batches of decoded images that may wait for the model, which bounds their memory."""

Job = tuple[Prediction, Any, Request]
"""The empty prediction of an image, its pixels, and what to answer."""


class Predictor:
    """Predicts the images of many requests in common batches.

    Args:
        model: The classifier.
        max_batch: Most images in a batch.
        max_wait: Seconds that a batch waits for further images.
        max_pixels: Most pixels of an image; larger ones are not decoded.
        decoders: Threads that decode images.
    """

    def __init__(
        self, model: Model[Any], *, max_batch: int, max_wait: float, max_pixels: int, decoders: int = 2
    ) -> None:
        self.model = model
        self._max_pixels = max_pixels
        self._decoding = DecodingLimit()
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decoder")
        self._batcher: Batcher[Job, Prediction] = Batcher(self._answers, max_batch, max_wait)
        self._room = asyncio.Semaphore(AHEAD * max_batch)

    async def predict(self, images: Sequence[tuple[str, bytes]], request: Request) -> list[Prediction]:
        """Return the predictions of images, each a name and the bytes of a file, in order."""
        return await asyncio.gather(*(self._predict(name, data, request) for name, data in images))

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()

    async def _predict(self, name: str, data: bytes, request: Request) -> Prediction:
        async with self._room:
            loop = asyncio.get_running_loop()
            empty, pixels = await loop.run_in_executor(self._decoders, self._read, name, data)
            if pixels is None:
                return empty
            return await asyncio.wrap_future(self._batcher.submit((empty, pixels, request)))

    def _read(self, name: str, data: bytes) -> tuple[Prediction, Any]:
        opener = partial(decode_bytes, data, max_pixels=self._max_pixels)
        return open_view(self.model.view, self._decoding, name, opener)

    def _answers(self, jobs: Sequence[Job]) -> list[Prediction]:
        logits = self.model.logits([pixels for _, pixels, _ in jobs])
        return [self.model.answer(empty, row, request) for (empty, _, request), row in zip(jobs, logits, strict=True)]
