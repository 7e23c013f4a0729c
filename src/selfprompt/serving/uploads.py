"""Reads the images and options of a request: a multipart form, JSON, or the bytes of one image."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from selfprompt.inference.predictions import Request
from selfprompt.serving.admission import Hold
from selfprompt.serving.limits import Limits

IMAGES = "images"
OPTIONS = {"top": int, "unknown": float, "coverage": float}
MAX_OPTION_BYTES = 1000
MAX_JSON_VALUES = 10_000
"""Most values in a JSON body, however many images the limits allow."""
HOW = "Send a multipart form with files in the field images, JSON with base64, or the bytes of one image as image/*."


@dataclass(frozen=True)
class Upload:
    """The content of a request.

    Attributes:
        images: Name and bytes of each image.
        options: The values of ``OPTIONS`` that it gives, as numbers or text; None for a JSON null.
    """

    images: tuple[tuple[str, bytes], ...]
    options: Mapping[str, Any]


async def read_upload(request: HTTPRequest, limits: Limits, hold: Hold) -> Upload:
    """Read a request within the limits; nothing is written to disk.

    Raises:
        HTTPException: If the request is not one of the known forms, or exceeds a limit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(limits.body_seconds), aclosing(_bounded(request, limits, hold)) as body:
            upload = await _read(kind, request, body, limits)
    except TimeoutError:
        raise HTTPException(408, f"The request did not arrive within {limits.body_seconds} seconds.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the request did.") from None
    if not upload.images:
        raise HTTPException(400, f"The request has no images. {HOW}")
    if len(upload.images) > limits.max_images:
        raise HTTPException(400, f"A request may have {limits.max_images} images, got {len(upload.images)}.")
    return upload


async def _bounded(request: HTTPRequest, limits: Limits, hold: Hold) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces, as long as it is not too large."""
    too_large = HTTPException(413, f"A request may have {limits.max_bytes:,} bytes; send fewer or smaller images.")
    if int(request.headers.get("content-length", 0)) > limits.max_bytes:
        raise too_large
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limits.max_bytes:
            raise too_large
        hold(len(piece))
        yield piece


async def _read(kind: str, request: HTTPRequest, body: AsyncGenerator[bytes, None], limits: Limits) -> Upload:
    if kind == "multipart/form-data":
        return await _multipart(request, body, limits)
    if kind == "application/json":
        return await asyncio.to_thread(parse_json, await _joined(body))
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        data = await _joined(body)
        return Upload((("image 0", data),) if data else (), {})
    raise HTTPException(415, f"Content-Type {kind[:100]!r} is not supported. {HOW}")


async def _joined(body: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([piece async for piece in body])


class _Form(MultiPartParser):
    """Keeps files in memory, which the limits bound, and refuses a form that ends early."""

    spool_max_size = 0  # no limit: the body has one
    complete = False

    def on_end(self) -> None:
        self.complete = True

    async def parse(self) -> FormData:
        self.stream = self._whole(self.stream)
        return await super().parse()

    async def _whole(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for piece in body:
            yield piece
        if not self.complete:
            raise MultiPartException("it ends early.")


async def _multipart(request: HTTPRequest, body: AsyncGenerator[bytes, None], limits: Limits) -> Upload:
    parser = _Form(
        request.headers,
        body,
        max_files=limits.max_images,
        max_fields=len(OPTIONS),
        max_part_size=MAX_OPTION_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"The multipart form cannot be read: {error.message}") from None
    try:
        return await _fields(form)
    finally:
        await form.close()


async def _fields(form: FormData) -> Upload:
    """Return the content of a form."""
    images: list[tuple[str, bytes]] = []
    options: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            options[name] = value
        elif name == IMAGES:
            images.append((value.filename or f"image {len(images)}", await value.read()))
        else:
            raise HTTPException(400, f"Files must be in the field images, got one in {name[:100]!r}.")
    return Upload(tuple(images), options)


def parse_json(body: bytes) -> Upload:
    """Read ``{"images": [base64, ...], "top": 3, "unknown": 0.05, "coverage": 0.9}``; all but images is optional.

    Raises:
        HTTPException: If it is something else.
    """
    # Texts in base64 have none of these signs; 32 MB of empty lists would become a gigabyte of objects.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise HTTPException(400, f"JSON may have {MAX_JSON_VALUES:,} values: a list of base64 texts, and options.")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not valid JSON.") from None
    if not isinstance(values, dict) or not isinstance(values.get(IMAGES), list):
        raise HTTPException(400, 'JSON must be an object with a list of base64 texts: {"images": ["..."]}.')
    images = []
    for number, text in enumerate(values.pop(IMAGES)):
        try:
            images.append((f"image {number}", base64.b64decode(text, validate=True)))
        except (TypeError, ValueError, binascii.Error):
            raise HTTPException(400, f"images[{number}] must be the base64 text of an image file.") from None
    return Upload(tuple(images), values)


def as_request(options: Mapping[str, Any], default: Request) -> Request:
    """Return what a client wants to know.

    Args:
        options: Its options, as numbers or text.
        default: What to answer where it gives none.

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"Unknown option {name[:100]!r}; known: {', '.join(OPTIONS)}.")
    values = {name: _number(name, options[name]) for name in options}
    return Request(**{name: values.get(name, getattr(default, name)) for name in OPTIONS})


def _number(name: str, value: Any) -> Any:
    """Return the value of an option as a number, or None."""
    kind = OPTIONS[name]
    if value is None and kind is float:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, kind)):
            raise TypeError
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {noun}, got {value!r:.100}.") from None
