import io

import numpy as np
import pytest
import soundfile

from vivace.core.audio import Audio
from vivace.core.errors import BundleError
from vivace.workflows import _report_sound as sound
from vivace.workflows._report_story import Story


def story(**clips):
    return Story(
        {
            "variants": [
                {"id": name, "kept": True, "clips": [{"text": t, "file": f} for t, f in files]}
                for name, files in clips.items()
            ]
        }
    )


def tone(hz, seconds=1.0, rate=22_050):
    return Audio(np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32) * 0.5, rate)


def test_files_of_the_pair_come_first_each_once():
    told = story(a=[("x", "a.flac")], b=[("x", "b.flac")], c=[("x", "c.flac"), ("y", "a.flac")])
    assert sound.files(told) == ["a.flac", "c.flac", "b.flac"]
    assert sound.files(None) == []


@pytest.mark.parametrize("name", ["../a.flac", "/etc/passwd", "audio/../../a.flac"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(BundleError, match="do not use it"):
        sound.read(story(a=[("x", name)]), tmp_path)


def test_read_takes_what_is_there(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"abc")
    assert sound.read(story(a=[("x", "a.flac"), ("y", "gone.flac")]), tmp_path) == {"a.flac": b"abc"}


def test_what_does_not_fit_into_the_page_is_linked(monkeypatch):
    monkeypatch.setattr(sound, "EMBEDDED", 5)
    heard = sound.listenings(story(a=[("x", "a 1.flac")], b=[("x", "b#.wav")]), {"a 1.flac": b"1234", "b#.wav": b"12"})
    assert [clip.source for clip in heard[0].clips] == ["data:audio/flac;base64,MTIzNA==", "b%23.wav"]


def test_clips_are_grouped_by_text_with_ids_of_their_own():
    told = story(a=[("x", "1.wav"), ("y", "2.wav")], b=[("x", "3.wav"), ("y", "4.wav")], c=[("x", "5.wav")])
    heard = sound.listenings(told, {f"{k}.wav": b"." for k in (1, 2, 3, 4, 5)})
    assert [(one.text, [c.file for c in one.clips]) for one in heard] == [
        ("x", ["1.wav", "3.wav", "5.wav"]),
        ("y", ["2.wav", "4.wav"]),
    ]
    assert heard[0].original.file == "1.wav" and heard[0].final.file == "5.wav" and heard[1].final is None
    assert len({c.id for one in heard for c in one.clips}) == 5


def test_decode_makes_mono():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([np.full(100, 0.5), np.full(100, 0.25)], axis=1), 16_000, format="FLAC")
    clip = sound.decode("a.flac", buffer.getvalue())
    assert clip.rate == 16_000 and clip.samples.shape == (100,)
    np.testing.assert_allclose(clip.samples, 0.375, atol=1e-4)


def test_decode_names_what_is_no_audio():
    with pytest.raises(BundleError, match=r"a\.flac cannot be read as audio"):
        sound.decode("a.flac", b"no audio at all")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0), 16_000, format="WAV")
    with pytest.raises(BundleError, match="holds no audio"):
        sound.decode("b.wav", buffer.getvalue())


@pytest.mark.parametrize("hz", [80, 440, 3000, 9000])
def test_a_tone_lights_the_band_of_its_pitch(hz):
    levels = sound.spectrograms([tone(hz)])[0]
    top = 22_050 / 2
    mel = np.log10(1 + hz / 700) / np.log10(1 + top / 700) * (sound.BANDS + 1) - 1
    assert levels.shape[0] == sound.BANDS and levels.max() == 0
    assert abs(int(levels.mean(axis=1).argmax()) - mel) <= 1.5


def test_spectrograms_share_their_reference_and_highest_frequency():
    loud, quiet = sound.spectrograms([tone(440), Audio(tone(440).samples * np.float32(0.1), 22_050)])
    assert loud.max() == 0 and quiet.max() == pytest.approx(-20, abs=0.1)
    low, high = sound.spectrograms([tone(440, rate=16_000), tone(440, rate=44_100)])
    assert abs(int(low.mean(axis=1).argmax()) - int(high.mean(axis=1).argmax())) <= 1


def test_spectrograms_stay_narrow_and_survive_silence():
    long, short = sound.spectrograms([tone(440, 40), tone(440, 0.01)])
    assert 300 < long.shape[1] <= sound.COLUMNS and short.shape[1] >= 1
    assert np.isfinite(sound.spectrograms([Audio(np.zeros(5000, np.float32), 8000)])[0]).all()
