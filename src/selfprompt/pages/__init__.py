"""The page that classifies images in a browser; `selfprompt serve` and `selfprompt export --to web` deliver it.

It imports the module ``backend.js`` from its own folder, which whoever delivers the page adds:

- ``async describe()`` returns ``{title, classes, note, parallel}``: the name of the classifier, its class names, a note
  ("" for none), and how many images to classify at the same time (optional; 1).
- ``async classify(blob, name)`` returns ``{top: [[label, score], ...]}`` with scores in [0, 1], best first;
  ``{unknown: true}``; or ``{error: "one sentence"}``.

All names reach the page as text, never as HTML.
"""

from importlib.resources import files

FILES = ("classify.html", "classify.css", "classify.js", "csv.js")


def page_files() -> dict[str, bytes]:
    """Return the files of the page by name; `classify.html` is the page."""
    return {name: (files(__name__) / name).read_bytes() for name in FILES}
