"""A voice in Coqui's layout: there and back, with weight norm in both spellings. Names and numbers were compared with
the modules of coqui-tts 0.28 themselves; what was found stands here as the names that they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivace.core.errors import ModelError  # noqa: E402
from vivace.modules import _vits_coqui as coqui  # noqa: E402
from vivace.modules.vits import Vits, from_coqui  # noqa: E402

SMALL = {
    "num_chars": 30, "hidden_channels": 8, "hidden_channels_ffn_text_encoder": 12, "num_layers_text_encoder": 1,
    "upsample_rates_decoder": [4, 2], "upsample_initial_channel_decoder": 16, "upsample_kernel_sizes_decoder": [8, 4],
    "resblock_kernel_sizes_decoder": [3, 5], "resblock_dilation_sizes_decoder": [[1, 2, 3], [1, 3, 5]],
}  # fmt: skip
THEIRS = {
    "text_encoder.emb.weight", "text_encoder.encoder.norm_layers_1.0.gamma", "text_encoder.proj.bias",
    "flow.flows.3.enc.in_layers.3.weight", "flow.flows.1.post.weight", "waveform_decoder.resblocks.3.convs2.1.bias",
    "waveform_decoder.ups.1.weight", "waveform_decoder.conv_post.weight",
}  # fmt: skip
SPELLINGS = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))


def config(**more: Any) -> dict[str, Any]:
    return {"model": "vits", "model_args": {**SMALL, **more}}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, {"duration_predictor.flows.4.convs.convs_sep.0.weight", "duration_predictor.flows.0.log_scale"}),
        ({"use_sdp": False, "resblock_type_decoder": "1"}, {"duration_predictor.norm_1.gamma"}),
        (
            {"use_speaker_embedding": True, "num_speakers": 3, "speaker_embedding_channels": 4},
            {"emb_g.weight", "waveform_decoder.cond_layer.weight", "flow.flows.0.enc.cond_layer.bias"},
        ),
    ],
)
def test_there_and_back(spelling: tuple[str, str], more: dict[str, Any], names: set[str]) -> None:
    torch.manual_seed(0)
    shape = coqui.shape(config(**more))
    own = {name: value.numpy() for name, value in Vits(shape).state_dict().items()}
    stored = coqui.write(own)
    assert THEIRS | names <= set(stored)
    assert stored.get("duration_predictor.norm_1.gamma", np.zeros((1, 256, 1))).shape == (1, 256, 1)
    length, direction = spelling
    for name in [n for n in stored if ".in_layers." in n or ".ups." in n]:
        if name.endswith(".weight"):  # as weight norm stores it: any length of the direction will do
            value = stored.pop(name)
            norm = np.sqrt(np.square(value).sum((1, 2), keepdims=True))
            stored[name.removesuffix(".weight") + length] = norm
            stored[name.removesuffix(".weight") + direction] = 3 * value
    training = {"disc.nets.0.weight", "posterior_encoder.pre.weight", "duration_predictor.flows.1.pre.weight"}
    found = from_coqui(config(**more), {**stored, **dict.fromkeys(training, np.zeros(1))}).state_dict()
    assert set(found) == set(own)
    for name, value in own.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-6, atol=1e-7)
    again = coqui.shape({"model": "vits", "model_args": coqui.model_args(shape)})
    assert again == shape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "xtts"}, "the config is for 'xtts'"),
        (config(use_d_vector_file=True), "use_d_vector_file: a model that speaks by speaker vectors"),
        (config(use_language_embedding=True), "speaks several languages"),
    ],
)
def test_what_is_no_plain_vits(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        coqui.shape(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("flow.flows.1.post.bias"), r"flow.flows.2.post.bias is missing: the settings ask for \(4,\)"),
        (
            lambda w: w.update({"text_encoder.emb.weight": np.zeros((31, 8), np.float32)}),
            r"enc_p.emb.weight is \(31, 8\); the settings ask for \(30, 8\)",
        ),
        (lambda w: w.update({"emb_g.weight": np.zeros((2, 4), np.float32)}), "emb_g.weight belongs to nothing"),
    ],
)
def test_weights_and_settings_that_do_not_fit(change: Any, message: str) -> None:
    stored = coqui.write({n: v.numpy() for n, v in Vits(coqui.shape(config())).state_dict().items()})
    change(stored)
    with pytest.raises(ModelError, match=message):
        from_coqui(config(), stored)
