"""Whatever the interface allows to be asked, and much that it does not: never an error of the server, always what the
document says."""

from __future__ import annotations

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

from server.conftest import Served  # noqa: E402


@pytest.mark.parametrize("mode", GenerationMode)
def test_the_document_holds(served: Served, mode: GenerationMode) -> None:
    interface = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [found.ok() for found in interface.get_all_operations()]
    assert len(operations) == 5

    def check(case: Any) -> None:
        response = case.call()
        assert response.status_code < 500, response.text
        case.validate_response(response)

    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong
        cases = operation.as_strategy(generation_mode=mode)
        few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        few(given(cases)(check))()
