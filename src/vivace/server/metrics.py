"""What Prometheus reads from /metrics. Labels hold names of models and variants only, never anything of a client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

FAST = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120)
FACTORS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2)
STATES = {"closed": 0, "half-open": 1, "open": 2}


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        by = ("model", "variant")
        self.requests = Counter("vivace_requests", "Requests, by how they ended.", ("model", "outcome"), registry=r)
        self.errors = Counter(
            "vivace_http_errors", "Answers of /v1 and of listening tests that are errors.", ("status",), registry=r
        )
        self.first = Histogram("vivace_ttfa_seconds", "Arrival to first audio.", by, buckets=FAST, registry=r)
        self.whole = Histogram("vivace_request_seconds", "Arrival to last audio.", by, buckets=SLOW, registry=r)
        self.rtf = Histogram("vivace_rtf", "Time over audio, queue included.", by, buckets=FACTORS, registry=r)
        self.gaps = Histogram("vivace_chunk_gap_seconds", "Between two chunks.", by, buckets=FAST, registry=r)
        self.underruns = Counter(
            "vivace_underruns", "Chunks that came after a listener had played all before.", by, registry=r
        )
        self.audio = Counter("vivace_audio_seconds", "Seconds of speech made.", by, registry=r)
        self.fallbacks = Counter("vivace_variant_failures", "Times that a variant was left.", by, registry=r)
        self.live = Gauge("vivace_live_requests", "Requests that are waiting or speaking.", registry=r)
        self.slots = Gauge("vivace_variant_slots", "Requests that it can speak at once.", by, registry=r)
        self.batch = Gauge("vivace_variant_batch", "Requests that it speaks now.", by, registry=r)
        self.queue = Gauge("vivace_variant_queue", "Requests that wait for a place in it.", by, registry=r)
        self.breaker = Gauge("vivace_breaker_state", "0 closed, 1 half open, 2 open.", by, registry=r)
        self.up = Gauge("vivace_variant_up", "1 if the variant's process is running.", by, registry=r)
        self.replicas = Gauge("vivace_variant_replicas", "Processes of it that can speak.", by, registry=r)
        self.deaths = Counter(
            "vivace_replica_deaths", "Processes that could speak and ended without being told to.", by, registry=r
        )
        self.head = Gauge("vivace_cluster_head_up", "0 if the replicas' Ray head does not answer.", registry=r)
        self.head.set(1)
        self.memory = Gauge("vivace_variant_memory_bytes", "Resident memory of the variant's process.", by, registry=r)

    def page(self) -> bytes:
        return bytes(generate_latest(self.registry))


class Stopwatch:
    """The times of one request: `chunk` for each piece of audio as it is sent. `arrived` is on the same clock."""

    def __init__(self, metrics: Metrics, model: str, arrived: float) -> None:
        self._metrics, self._model, self._arrived = metrics, model, arrived
        self._variant = ""
        self._first = self._last = self._played = 0.0

    def chunk(self, variant: str, seconds: float, now: float) -> None:
        m, labels = self._metrics, (self._model, variant)
        if not self._variant:
            self._variant, self._first = variant, now
            m.first.labels(*labels).observe(now - self._arrived)
        else:
            m.gaps.labels(*labels).observe(now - self._last)
            if now - self._first > self._played:
                m.underruns.labels(*labels).inc()
        self._last = now
        self._played += seconds
        m.audio.labels(*labels).inc(seconds)

    def told(self, now: float) -> str:
        return f"{self._played:.1f} s of audio in {now - self._arrived:.2f} s"

    def end(self, outcome: str, now: float) -> None:
        m = self._metrics
        m.requests.labels(self._model, outcome).inc()
        if self._variant and outcome == "ok":
            m.whole.labels(self._model, self._variant).observe(now - self._arrived)
            if self._played:
                m.rtf.labels(self._model, self._variant).observe((now - self._arrived) / self._played)
