"""What goes over the wire: OpenAI's speech request, and its error object for everything that is wrong.

https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, TypeVar

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

log = logging.getLogger(__name__)

MOST_CHARACTERS = 4096
NO_JSON = "send JSON, and say so: Content-Type: application/json"
Body = TypeVar("Body", bound=BaseModel)
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class Voice(BaseModel):
    id: str = Field(max_length=200)


def _nullable(schema: dict[str, Any]) -> None:
    """What need not be given may be null."""
    for name in set(schema["properties"]) - set(schema["required"]):
        known = schema["properties"][name]
        kinds = known.pop("anyOf", None) or [
            {k: known.pop(k) for k in set(known) - {"default", "description", "title"}}
        ]
        known["anyOf"] = [*(kind for kind in kinds if kind != {"type": "null"}), {"type": "null"}]


class Lenient(BaseModel):
    """Clients that are generated send null for what nobody gave them."""

    @model_validator(mode="before")
    @classmethod
    def _not_given(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known = cls.model_fields
        return {k: v for k, v in body.items() if v is not None or k not in known or known[k].is_required()}


class Speech(Lenient):
    """The body of POST /v1/audio/speech. What OpenAI's servers take and this one has no use for is accepted."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=_nullable)

    model: str = Field(max_length=200, description="A model of /v1/models, or one of OpenAI's names for the first.")
    input: str = Field(min_length=1, max_length=MOST_CHARACTERS, description="The text.")
    voice: Annotated[str, Field(max_length=200)] | Voice = Field(
        default="", description="One of /v1/audio/voices, or one of OpenAI's names for the first."
    )
    instructions: str = Field(default="", max_length=MOST_CHARACTERS, description="Accepted and ignored.")
    response_format: Format = "mp3"
    speed: float = Field(default=1.0, ge=0.25, le=4.0, description="Above 1 is faster.")
    stream_format: Literal["audio", "sse"] | None = Field(
        default=None,
        description="sse: base64 in server-sent events. A wav without it comes whole, with its true length.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of Vivace: the same seed, the same samples.")
    variant: str = Field(
        default="", max_length=200, description="Of Vivace: the one variant that may speak (default: the chain)."
    )

    @property
    def voice_id(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Problem(BaseModel):
    """What every answer that is no success holds."""

    error: Error


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request is wrong, or there are too many."},
    "5XX": {"model": Problem, "description": "The server cannot, perhaps for now: see Retry-After."},
}


class ApiError(Exception):
    """Becomes OpenAI's error object. `retry`: seconds after which to try again."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    @property
    def type(self) -> str:
        known = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return known.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry is None else {"Retry-After": str(self.retry)}

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def answer(error: ApiError) -> JSONResponse:
    """The error as a client gets it, and a line of it in the log, but for what may hold of a text."""
    told = "the text was refused" if error.param == "input" else " ".join(error.message.split())[:300]
    log.info("answered %d: %s", error.status, told)
    return JSONResponse(error.body(), error.status, error.headers)


def parsed(model: type[Body], kind: str, body: bytes) -> Body:
    """The body of a request whose Content-Type is `kind`. Raises ApiError with the first thing that is wrong."""
    if "json" not in kind:
        raise ApiError(400, NO_JSON)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise problem(list(error.errors())) from None


def problem(errors: list[Any]) -> ApiError:
    """The first of pydantic's errors."""
    first = errors[0]
    where = [str(part) for part in first.get("loc", ()) if part not in ("body", "constrained-str", "Voice")]
    if first.get("type") == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}".rstrip(": "))
    name = ".".join(where)
    return ApiError(400, f"{name or 'body'}: {first['msg']}", param=name or None, code=str(first["type"]))
