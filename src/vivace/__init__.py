"""Makes text-to-speech models small and fast, proves that the voice was not harmed, and serves them.

The verbs of the command line are functions here; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Audio": "vivace.core.audio",
    "Bundle": "vivace.core.bundle",
    "Engine": "vivace.engine.engine",
    "Report": "vivace.core.report",
    "Request": "vivace.core.speech",
    "VivaceError": "vivace.core.errors",
    "benchmark": "vivace.workflows.benchmark",
    "evaluate": "vivace.workflows.evaluate",
    "export": "vivace.workflows.export",
    "import_model": "vivace.workflows.import_",
    "open_bundle": "vivace.core.bundle",
    "optimize": "vivace.workflows.optimize",
    "profile": "vivace.workflows.profile",
    "serve": "vivace.server.process",
    "synthesize": "vivace.workflows.synthesize",
    "write_report": "vivace.workflows.report",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from vivace.core.audio import Audio as Audio
    from vivace.core.bundle import Bundle as Bundle
    from vivace.core.bundle import open_bundle as open_bundle
    from vivace.core.errors import VivaceError as VivaceError
    from vivace.core.report import Report as Report
    from vivace.core.speech import Request as Request
    from vivace.engine.engine import Engine as Engine
    from vivace.server.process import serve as serve
    from vivace.workflows.benchmark import benchmark as benchmark
    from vivace.workflows.evaluate import evaluate as evaluate
    from vivace.workflows.export import export as export
    from vivace.workflows.import_ import import_model as import_model
    from vivace.workflows.optimize import optimize as optimize
    from vivace.workflows.profile import profile as profile
    from vivace.workflows.report import write_report as write_report
    from vivace.workflows.synthesize import synthesize as synthesize


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vivace' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
