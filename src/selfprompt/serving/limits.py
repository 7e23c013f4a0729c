"""What a server takes in: limits of one request, and of all requests together. Needs no further package."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: Most bytes of a request.
        max_images: Most images of a request.
        max_pixels: Most pixels of an image; a larger one is not decoded.
        max_waiting: Most requests at the same time; others get status 503.
        max_waiting_bytes: Most bytes of all these requests together.
        body_seconds: Seconds in which the body of a request must arrive.
        idle_seconds: Seconds in which a connection must send its next request; then it is closed.

    Raises:
        ValueError: If a limit is below 1, or one request may hold more than all together.
    """

    max_bytes: int = 32 << 20
    max_images: int = 64
    max_pixels: int = 50_000_000
    max_waiting: int = 256
    max_waiting_bytes: int = 512 << 20
    body_seconds: int = 30
    idle_seconds: int = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}.")
        if self.max_waiting_bytes < self.max_bytes:
            raise ValueError(
                f"max_waiting_bytes must be at least max_bytes, {self.max_bytes}, got {self.max_waiting_bytes}."
            )
