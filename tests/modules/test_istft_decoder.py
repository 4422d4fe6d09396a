"""The inverse STFT is one; a student begins with its teacher's layers, and has its hop."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from vivace.core.errors import UsageError  # noqa: E402
from vivace.modules.hifigan import Generator, GeneratorShape  # noqa: E402
from vivace.modules.istft_decoder import DecoderShape, IstftDecoder, from_teacher, inverse_basis  # noqa: E402

TEACHER = GeneratorShape(6, (8, 4, 4), (4, 4), (8, 8), (3, 5), ((1, 2), (1, 3)))
STUDENT = DecoderShape(6, 8, (4,), (8,), (4,), (((1, 2),),), 16)


@pytest.mark.parametrize("fft", [8, 16, 64])
def test_the_basis_inverts_the_transform(fft: int) -> None:
    signal = torch.randn(2, 10 * fft)
    spectrum = torch.stft(signal, fft, fft // 4, window=torch.hann_window(fft), center=False, return_complex=True)
    parts = torch.cat([spectrum.real, spectrum.imag], 1)
    back = F.conv_transpose1d(parts, inverse_basis(fft), stride=fft // 4)[:, 0]
    torch.testing.assert_close(back[:, fft:-fft], signal[:, fft:-fft], atol=1e-5, rtol=0)


def test_a_student_begins_as_its_teacher() -> None:
    teacher = Generator(TEACHER)
    student = from_teacher(teacher, STUDENT)
    assert torch.equal(student.conv_pre.weight, teacher.conv_pre.weight)
    assert torch.equal(student.ups[0].weight, teacher.ups[0].weight)
    latent = torch.randn(2, 6, 5)
    made, known = student.with_features(latent)
    assert made.shape == teacher(latent).shape == (2, 1, 5 * STUDENT.hop)
    assert [tuple(x.shape) for x in known] == [(2, 4, 20)]
    assert tuple(teacher.with_features(latent)[1][0].shape) == (2, 4, 20)


def test_another_hop_is_refused() -> None:
    with pytest.raises(UsageError, match="makes 32 samples of a frame; its teacher makes 16"):
        from_teacher(Generator(TEACHER), DecoderShape(6, 8, (8,), (16,), (4,), (((1, 2),),), 16))


def test_a_strange_latent_stays_finite() -> None:
    made = IstftDecoder(STUDENT)(1e6 * torch.randn(1, 6, 8))
    assert torch.isfinite(made).all()
