from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.passes._layout import packed_weights, phase_weights


@given(kernel=st.integers(1, 9), stride=st.integers(1, 4), length=st.integers(1, 5))
def test_phases_are_a_transposed_convolution(kernel: int, stride: int, length: int) -> None:
    """Against the definition: every input adds its kernel at `stride` times its place."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((2, 3, kernel)).astype(np.float32), rng.standard_normal((2, length))
    phases, bias = phase_weights(weight, np.arange(3, dtype=np.float32), stride)
    taps = phases.shape[2]
    assert phases.shape == (3 * stride, 2, -(-kernel // stride))
    wanted = np.zeros((3, (length - 1 + taps) * stride))
    for k in range(length):
        wanted[:, k * stride : k * stride + kernel] += np.einsum("i,iok->ok", x[:, k], weight)
    padded = np.pad(x, ((0, 0), (taps - 1, taps - 1)))
    made = np.stack([np.einsum("oit,it->o", phases, padded[:, q : q + taps]) for q in range(length + taps - 1)])
    np.testing.assert_allclose(made.reshape(-1, 3).T, wanted, atol=1e-6)
    assert bias is not None
    assert bias.tolist() == [0, 1, 2] * stride


@pytest.mark.parametrize(("outputs", "phases"), [(1, 16), (2, 4)])
def test_packing_computes_neighbours_as_channels(outputs: int, phases: int) -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((outputs, 3, 5)).astype(np.float32), rng.standard_normal((3, 2 * phases + 4))
    packed, bias = packed_weights(weight, None, phases)
    plain = np.stack([np.einsum("oik,ik->o", weight, x[:, t : t + 5]) for t in range(2 * phases)])
    width = packed.shape[2]
    made = [np.einsum("oik,ik->o", packed, x[:, t : t + width]) for t in (0, phases)]
    np.testing.assert_allclose(np.concatenate(made).reshape(-1, outputs), plain, atol=1e-6)
    assert bias is None
