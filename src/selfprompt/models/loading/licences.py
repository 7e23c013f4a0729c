"""Licences of pretrained weights that bind their users more than usual, as far as they are known."""

import timm

from selfprompt.models.loading.downloads import Say

_USUAL = ("", "unknown", "apache-2.0", "mit", "bsd-3-clause")
_OF_REPOSITORIES = {  # repositories of the Hugging Face hub that begin so; timm states those of its own
    "apple/": "a licence of Apple",
    "timm/MobileCLIP2": "apple-amlr",
    "facebook/dinov3": "dinov3-license",
    "facebook/metaclip": "cc-by-nc-4.0",
    "visheratin/nllb": "cc-by-nc-4.0",
    "google/medsiglip": "the terms of Google's Health AI Developer Foundations",
}


def say_licence(name: str, repository: str | None, say: Say) -> None:
    """Say under which licence the weights of a repository on the Hugging Face hub are, if it is a binding one."""
    licence = _licence(repository or "")
    if licence not in _USUAL:
        limit = ", not for commercial use" if "-nc-" in licence or "noncommercial" in licence else ""
        say(f"the weights of {name} are under {licence}{limit}; check that it allows what you do")


def _licence(repository: str) -> str:
    for start, licence in _OF_REPOSITORIES.items():
        if repository.startswith(start):
            return licence
    owner, _, name = repository.partition("/")
    record = timm.get_pretrained_cfg(name) if owner == "timm" and timm.is_model_pretrained(name) else None
    return (record and record.license) or ""
