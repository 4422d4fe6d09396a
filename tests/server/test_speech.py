"""The official client, in every format, streamed and whole; and everything that can be wrong with a request."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import wave
from typing import Any

import numpy as np
import pytest
import soundfile

av = pytest.importorskip("av")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from starlette.requests import Request  # noqa: E402

from server.conftest import Served  # noqa: E402
from vivace.server import speech  # noqa: E402

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
TEXT = "One sentence of a toy. And here is another one."
BODY = {"model": "toy", "input": TEXT, "voice": "ann"}


@pytest.fixture
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def decoded(form: str, data: bytes) -> tuple[np.ndarray, int]:
    """Samples and their rate."""
    if form == "pcm":
        return np.frombuffer(data, "<i2") / 32768, 24_000
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    samples = [frame.to_ndarray().reshape(-1) for frame in frames]
    return np.concatenate(samples).astype(np.float64), frames[0].sample_rate


@pytest.fixture(scope="module")
def whole(served: Served) -> np.ndarray:
    """What the voice says, as samples."""
    answer = httpx.post(f"{served.url}/v1/audio/speech", json={**BODY, "response_format": "wav"}, timeout=60)
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 8000
    return np.asarray(samples)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_the_whole_speech(client: Any, whole: np.ndarray, form: str) -> None:
    answer = client.audio.speech.create(model="toy", voice="ann", input=TEXT, response_format=form)
    samples, rate = decoded(form, answer.content)
    assert len(samples) / rate == pytest.approx(
        len(whole) / 8000, abs=0.3
    )  # codecs pad, by up to two frames of 0.14 s at this rate
    with client.audio.speech.with_streaming_response.create(
        model="toy", voice="ann", input=TEXT, response_format=form
    ) as streamed:
        assert b"".join(streamed.iter_bytes()) == answer.content or form == "opus"  # whose stream has a random number


def test_a_wav_of_known_length_has_it_in_its_header(client: Any, whole: np.ndarray) -> None:
    data = client.audio.speech.create(model="toy", voice="ann", input=TEXT, response_format="wav").content
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == len(whole)


def test_a_streamed_wav_is_the_same_speech(client: Any, whole: np.ndarray) -> None:
    data = client.audio.speech.create(
        model="toy", voice="ann", input=TEXT, response_format="wav", stream_format="audio"
    ).content
    assert np.array_equal(soundfile.read(io.BytesIO(data))[0], whole)
    with wave.open(io.BytesIO(data)) as file:
        assert len(file.readframes(file.getnframes())) == 2 * len(whole)


def test_events_hold_the_same_bytes(served: Served, whole: np.ndarray) -> None:
    body = {**BODY, "response_format": "pcm", "stream_format": "sse"}
    plain = httpx.post(f"{served.url}/v1/audio/speech", json={**BODY, "response_format": "pcm"}, timeout=60).content
    answer = httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert b"".join(base64.b64decode(e["audio"]) for e in events[:-1]) == plain
    assert {e["type"] for e in events[:-1]} == {"speech.audio.delta"}
    seconds = len(whole) / 8000
    usage = {"input_tokens": len(TEXT), "output_tokens": round(20 * seconds)}
    assert events[-1] == {
        "type": "speech.audio.done", "usage": usage | {"total_tokens": sum(usage.values())}
    }  # fmt: skip


def test_the_asynchronous_client(served: Served, whole: np.ndarray) -> None:
    async def speak() -> bytes:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            made = client.audio.speech.with_streaming_response.create(
                model="toy", voice="ann", input=TEXT, response_format="wav"
            )
            async with made as answer:
                return await answer.read()

    assert np.array_equal(soundfile.read(io.BytesIO(asyncio.run(speak())))[0], whole)


def test_speed_voice_and_seed_are_heard(served: Served, whole: np.ndarray) -> None:
    def said(**changes: Any) -> np.ndarray:
        body = {**BODY, "response_format": "wav", **changes}
        answer = httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.asarray(soundfile.read(io.BytesIO(answer.content))[0])

    assert np.array_equal(said(), whole)
    assert len(said(speed=2.0)) < 0.7 * len(whole)
    assert not np.array_equal(said(voice="bob"), whole)
    assert not np.array_equal(said(seed=7), whole)
    assert np.array_equal(said(voice={"id": "ann"}), whole)
    assert np.array_equal(said(voice="alloy"), whole)  # OpenAI's names mean the first voice, and the first model
    assert np.array_equal(said(model="tts-1"), whole)
    assert not np.array_equal(said(model="other", voice="alloy"), whole)


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": "x" * 4097}, 400, "input"),
        ({"input": 5}, 400, "input"),
        ({"input": " \n "}, 400, "input"),
        ({"model": "nobody"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"voice": "nobody"}, 400, "voice"),
        ({"voice": 5}, 400, "voice"),
        ({"voice": "../../etc/passwd"}, 400, "voice"),
        ({"response_format": "exe"}, 400, "response_format"),
        ({"speed": 0}, 400, "speed"),
        ({"speed": 100}, 400, "speed"),
        ({"speed": "fast"}, 400, "speed"),
        ({"stream_format": "x"}, 400, "stream_format"),
        ({"seed": -1}, 400, "seed"),
    ],
)
def test_what_is_wrong_gets_openais_error_object(
    served: Served, changes: dict[str, Any], status: int, param: str
) -> None:
    answer = httpx.post(f"{served.url}/v1/audio/speech", json={**BODY, **changes}, timeout=60)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert error["message"] and "\n" not in error["message"]


def test_null_is_not_given(served: Served) -> None:
    names = ["voice", "instructions", "response_format", "speed", "stream_format", "seed", "variant"]
    answer = httpx.post(f"{served.url}/v1/audio/speech", json={**BODY, **dict.fromkeys(names)}, timeout=60)
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "audio/mpeg"


def test_the_clients_own_exceptions(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="known: toy, other"):
        client.audio.speech.create(model="nobody", voice="ann", input="x")
    with pytest.raises(openai.BadRequestError, match="known: ann, bob"):
        client.audio.speech.create(model="toy", voice="nobody", input="x")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"hello", "text/plain"),
    ],
)
def test_a_body_that_is_no_request(served: Served, content: bytes, kind: str) -> None:
    answer = httpx.post(f"{served.url}/v1/audio/speech", content=content, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert ("Content-Type: application/json" in answer.json()["error"]["message"]) == (kind == "text/plain")


def test_the_answer_says_who_spoke(served: Served) -> None:
    begun = time.perf_counter()
    answer = httpx.post(f"{served.url}/v1/audio/speech", json=BODY, timeout=60)
    assert answer.headers["X-Vivace-Variant"] == "fast"
    assert len(answer.headers["X-Request-Id"]) == 32
    engine, duration = answer.headers["Server-Timing"].split(";dur=")
    assert engine == "engine" and 0 < float(duration) < 1000 * (time.perf_counter() - begun)


@pytest.mark.parametrize(("said", "left"), [("http.disconnect", True), ("http.request", False)])
def test_a_look_whether_the_client_has_left_waits_for_nothing_and_leaves_nothing(said: str, left: bool) -> None:
    async def looked() -> tuple[bool, int, bool]:
        word: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def receive() -> dict[str, str]:
            return await word.get()

        request = Request({"type": "http"}, receive)
        before, waiting = speech._left(request), len(word._getters)  # type: ignore[attr-defined]
        word.put_nowait({"type": said})
        return before, waiting, speech._left(request)

    assert asyncio.run(looked()) == (False, 0, left)
