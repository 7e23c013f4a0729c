"""The web application: its addresses, and what each answers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from selfprompt.inference.predictions import Prediction, Request, as_record
from selfprompt.pages import page_files
from selfprompt.serving.admission import Admission
from selfprompt.serving.guard import Guard, error_response, json_response
from selfprompt.serving.limits import Limits
from selfprompt.serving.predictor import Predictor
from selfprompt.serving.uploads import as_request, read_upload

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
SENTENCES = {404: "There is nothing at this address.", 405: "This address does not take this method."}
"""Status -> what the router means by it."""


@dataclass(frozen=True)
class About:
    """What the page shows of a classifier.

    Attributes:
        title: Its name.
        note: A sentence that users must read; "" for none.
        default: What to answer where a request does not say.
    """

    title: str
    note: str = ""
    default: Request = field(default_factory=Request)


def make_app(
    predictor: Predictor,
    about: About,
    limits: Limits,
    *,
    hosts: Collection[str] = (),
    token: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Guard:
    """Return the application.

    Args:
        predictor: Predicts images.
        about: What the page shows.
        limits: Limits of requests.
        hosts: Names of the server besides localhost and addresses in digits.
        token: What clients must know; None for nothing.
        say: Receives a line for each request that failed here.
    """
    admission = Admission(limits)
    classes = _description(predictor, about, limits)

    async def predict(request: HTTPRequest) -> Response:
        with admission.request() as hold:
            upload = await read_upload(request, limits, hold)
            try:
                wanted = as_request({**request.query_params, **upload.options}, about.default)
                predictor.model.remarks(wanted)
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            return _answer(await predictor.predict(upload.images, wanted))

    async def show_classes(_: HTTPRequest) -> Response:
        return json_response(classes)

    async def health(_: HTTPRequest) -> Response:
        return json_response({"status": "ok", "waiting": admission.requests})

    async def refuse(_: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = SENTENCES.get(error.status_code, error.detail)
        return error_response(error.status_code, sentence, dict(error.headers or {}))

    async def fail(_: HTTPRequest, error: Exception) -> Response:
        say(f"A request failed: {type(error).__name__}: {error}")
        return error_response(500, "The classifier failed; its operator has been told why.")

    routes = [Route("/predict", predict, methods=["POST"]), Route("/classes", show_classes), Route("/health", health)]
    app = Starlette(routes=[*routes, *_page()], exception_handlers={HTTPException: refuse, Exception: fail})
    return Guard(app, hosts, token)


def _description(predictor: Predictor, about: About, limits: Limits) -> dict[str, object]:
    """Return the answer of /classes."""
    return {
        "title": about.title,
        "note": about.note,
        "classes": list(predictor.model.classes),
        "calibrated": predictor.model.calibration is not None,
        "max_bytes": limits.max_bytes,
        "max_images": limits.max_images,
        "max_pixels": limits.max_pixels,
    }


def _answer(predictions: list[Prediction]) -> Response:
    """Return the records of the images; an error if none of them can be read."""
    if all(one.error for one in predictions):
        first, count = predictions[0], len(predictions)
        sentence = f"{first.image} cannot be read: {first.error.rstrip('.')}."
        return error_response(422, sentence if count == 1 else f"None of {count} images can be read. {sentence}")
    return json_response([as_record(one) for one in predictions])


def _page() -> list[Route]:
    """Return the addresses of the page's files."""
    contents = page_files() | {"backend.js": (files("selfprompt.serving") / "backend.js").read_bytes()}
    contents[""] = contents.pop("classify.html")
    return [_file(name, content) for name, content in contents.items()]


def _file(name: str, content: bytes) -> Route:
    media_type = MEDIA_TYPES[name.rpartition(".")[2] or "html"]

    async def show(_: HTTPRequest) -> Response:
        return Response(content, media_type=media_type)

    return Route(f"/{name}", show)
