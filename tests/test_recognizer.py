"""Recognizer: padding, decoding, word times, long recordings, loading; small random models and the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoProcessor,
    HubertConfig,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2PhonemeCTCTokenizer,
    Wav2Vec2Processor,
)

import secateur
from secateur.decoding import Frames, Transcript
from secateur.errors import SecateurError
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.kinds import HEARD, pads_cleanly
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer
from secateur.speech.audio import read_audio
from secateur.speech.corpus import open_corpus
from secateur.structure.counting import macs
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

PIECES = ["<unk>", "▁the", "▁c", "a", "t", "s", "▁"]
RATE = 16000


def shake(model: torch.nn.Module) -> None:
    """Random biases and norms, so that nothing hides behind a default of zero or one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


def conformer() -> Recognizer:
    torch.manual_seed(0)
    config = ConformerConfig(
        vocab_size=8, pad_token_id=7, num_mel_bins=16, hidden_size=16, num_hidden_layers=2, intermediate_size=24,
        conv_kernel_size=5, subsampling_conv_channels=4,
    )  # fmt: skip
    model = ConformerForCTC(config)
    shake(model)
    return Recognizer(model, ParakeetFeatureExtractor(feature_size=16), tokenizer_from_pieces(PIECES))


def parakeet() -> Recognizer:
    torch.manual_seed(0)
    encoder = {
        "num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 24, "conv_kernel_size": 5, "subsampling_conv_channels": 4, "model_type": "parakeet_encoder",
    }  # fmt: skip
    model = ParakeetForCTC(ParakeetCTCConfig(vocab_size=8, pad_token_id=7, encoder_config=encoder))
    shake(model)
    return Recognizer(model, ParakeetFeatureExtractor(feature_size=16), tokenizer_from_pieces(PIECES))


def wav2vec2(tmp_path: Path, norm: str = "layer") -> Recognizer:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=6, pad_token_id=0, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, conv_dim=(8,) * 7, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    shake(model)
    return Recognizer(model, Wav2Vec2FeatureExtractor(return_attention_mask=True), letters(tmp_path))


def letters(folder: Path) -> Wav2Vec2CTCTokenizer:
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "'": 5}))
    return Wav2Vec2CTCTokenizer(str(vocabulary), bos_token=None, eos_token=None)


OTHERS = sorted(HEARD - {"secateur_conformer", "parakeet_ctc"})


def other(kind: str, folder: Path) -> None:
    """A small random model of transformers, saved; norms are over channels wherever its kind can have that."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=6, pad_token_id=0, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, conv_dim=(8,) * 7, conv_stride=(5, 2, 2, 2, 2, 2, 2), conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        feat_extract_norm="layer", num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = AutoModelForCTC.from_config(config)
    shake(model)
    Recognizer(model, Wav2Vec2FeatureExtractor(return_attention_mask=True), letters(folder)).save_pretrained(
        folder
    )


@pytest.fixture(scope="module")
def recognizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recognizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return {
        "conformer": conformer(),
        "parakeet": parakeet(),
        "wav2vec2": wav2vec2(folder),
        "wav2vec2 with a norm over time": wav2vec2(folder, "group"),
    }


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * 0.1


@pytest.mark.parametrize("family", ["conformer", "parakeet", "wav2vec2", "wav2vec2 with a norm over time"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@settings(max_examples=8)
@given(seconds=st.lists(st.floats(0.02, 3.0), min_size=2, max_size=4))
def test_padding_never_leaks_into_an_utterance(
    recognizers: dict[str, Recognizer],
    family: str,
    dtype: torch.dtype,
    tolerance: float,
    seconds: list[float],
) -> None:
    recognizer = recognizers[family]
    recognizer.model.to(dtype)
    waveforms = [noise(length, seed) for seed, length in enumerate(seconds)]
    together, lengths = recognizer.logits(waveforms)
    largest = together.abs().max().item() if dtype == torch.float32 else 1.0
    for i, wave in enumerate(waveforms):
        alone, (frames,) = recognizer.logits([wave])
        assert frames == lengths[i] == alone.shape[1]
        assert (together[i, :frames] - alone[0]).abs().max() <= tolerance * largest


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_model_is_heard_beside_others_as_alone(kind: str, tmp_path: Path) -> None:
    other(kind, tmp_path / "model")
    recognizer = secateur.load(tmp_path / "model", dtype=torch.float64)
    waveforms = [noise(length, seed) for seed, length in enumerate((1.0, 2.0, 0.31))]
    together, lengths = recognizer.logits(waveforms)
    for i, wave in enumerate(waveforms):
        alone, (frames,) = recognizer.logits([wave])
        assert frames == lengths[i] == alone.shape[1]
        assert (together[i, :frames] - alone[0]).abs().max() <= 1e-9
        assert abs(int(frames) * recognizer.seconds_per_frame - len(wave) / RATE) <= 0.04
    assert macs(recognizer.model, 1.0) > 0


@pytest.mark.parametrize("family", ["conformer", "parakeet", "wav2vec2", "wav2vec2 with a norm over time"])
def test_frames_are_as_many_as_the_audio_has_seconds(recognizers: dict[str, Recognizer], family: str) -> None:
    recognizer = recognizers[family]
    _, lengths = recognizer.logits([noise(2.0, 0)])
    assert abs(int(lengths[0]) * recognizer.seconds_per_frame - 2.0) <= 2 * recognizer.seconds_per_frame


def decode(recognizer: Recognizer, tokens: list[int], probabilities: list[float] | None = None) -> Transcript:
    frames = Frames(np.array(tokens), np.array(probabilities or [0.5] * len(tokens), np.float32))
    return recognizer._decode(frames, len(tokens) * recognizer.seconds_per_frame)


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        (np.zeros((RATE, 2), np.float32), r"a waveform has the shape \(16000, 2\): give one of mono samples"),
        (np.full(RATE, np.nan, np.float32), "what the model puts out is not a number"),
    ],
)
def test_what_cannot_be_heard_is_refused_in_a_sentence(wave: np.ndarray, said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        conformer().transcribe(wave)


def test_greedy_decoding_merges_repeats_drops_blanks_and_times_the_words() -> None:
    # frames:      0  1  2  3  4  5  6  7  8  9
    tokens = [7, 1, 1, 7, 2, 3, 3, 7, 4, 4]
    probabilities = [1, 0.4, 0.9, 1, 0.8, 0.5, 0.5, 1, 0.2, 0.2]
    heard = decode(conformer(), tokens, probabilities)
    assert heard.text == "the cat"
    assert [(word.text, word.start, word.end) for word in heard.words] == [
        ("the", 0.04, 0.12),
        ("cat", 0.16, 0.4),
    ]
    assert heard.words[0].confidence == pytest.approx(0.9, abs=1e-3)
    assert heard.words[1].confidence == pytest.approx((0.8 * 0.5 * 0.2) ** (1 / 3), abs=1e-3)
    assert heard.confidence == pytest.approx((0.9 * 0.8 * 0.5 * 0.2) ** 0.25, abs=1e-3)


@given(tokens=st.lists(st.integers(0, 7), min_size=1, max_size=30))
def test_words_are_those_of_the_text_in_order(tokens: list[int]) -> None:
    heard = decode(conformer(), tokens)
    assert [word.text for word in heard.words] == heard.text.split()
    times = [time for word in heard.words for time in (word.start, word.end)]
    assert times == sorted(times)


def test_wav2vec2_words_end_at_its_delimiter(tmp_path: Path) -> None:
    heard = decode(wav2vec2(tmp_path), [0, 3, 3, 4, 0, 2, 2, 5, 4, 2])
    assert heard.text == "AB 'B"
    assert [word.text for word in heard.words] == ["AB", "'B"]


def test_phones_are_words_of_their_own(tmp_path: Path) -> None:
    phones = ["<pad>", "<unk>", "h", "ə", "l", "oʊ"]
    (tmp_path / "phones.json").write_text(json.dumps({phone: index for index, phone in enumerate(phones)}))
    recognizer = wav2vec2(tmp_path)
    recognizer.tokenizer = Wav2Vec2PhonemeCTCTokenizer(
        str(tmp_path / "phones.json"), bos_token=None, eos_token=None, do_phonemize=False
    )
    heard = decode(recognizer, [0, 2, 2, 3, 0, 4, 5, 5])
    assert heard.text.split() == [word.text for word in heard.words] == ["h", "ə", "l", "oʊ"]


def test_words_are_small_where_the_tokenizer_writes_small_letters(tmp_path: Path) -> None:
    recognizer = wav2vec2(tmp_path)
    recognizer.tokenizer.do_lower_case = True
    heard = decode(recognizer, [0, 3, 3, 4, 0, 2, 2, 5, 4, 2])
    assert heard.text == "ab 'b"
    assert [word.text for word in heard.words] == ["ab", "'b"]


def test_what_normalises_over_time_hears_utterances_one_by_one() -> None:
    assert pads_cleanly(HubertConfig(feat_extract_norm="layer"))
    assert not pads_cleanly(HubertConfig(feat_extract_norm="group"))
    assert not pads_cleanly(HubertConfig(feat_extract_norm="layer", conv_pos_batch_norm=True))


def test_the_blank_is_the_tokenizers_where_the_model_says_none(tmp_path: Path) -> None:
    known = wav2vec2(tmp_path)
    known.model.config.pad_token_id = None
    assert Recognizer(known.model, known.features, known.tokenizer).blank == known.tokenizer.pad_token_id
    known.tokenizer.pad_token = None
    with pytest.raises(SecateurError, match="which token is the blank"):
        Recognizer(known.model, known.features, known.tokenizer)


def test_a_processor_with_a_language_model_becomes_one_without(tmp_path: Path) -> None:
    wav2vec2(tmp_path).save_pretrained(tmp_path / "with")
    config = tmp_path / "with" / "tokenizer_config.json"
    settings = json.loads(config.read_text()) | {"processor_class": "Wav2Vec2ProcessorWithLM"}
    config.write_text(json.dumps(settings))
    secateur.load(tmp_path / "with").save_pretrained(tmp_path / "without")
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "without"), Wav2Vec2Processor)


def test_a_configuration_with_a_value_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    wav2vec2(tmp_path).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": "small"}))
    with pytest.raises(SecateurError, match="its config.json makes no sense: .*layer_norm_eps") as caught:
        secateur.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_its_letters_is_one_sentence(tmp_path: Path) -> None:
    wav2vec2(tmp_path).save_pretrained(tmp_path / "model")
    for name in ("vocab.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    with pytest.raises(
        SecateurError, match="feature extractor or tokenizer does not load .*: are its files there"
    ):
        secateur.load(tmp_path / "model")


def test_nothing_heard_is_an_empty_text_without_words() -> None:
    heard = decode(conformer(), [7, 7, 7])
    assert (heard.text, heard.words) == ("", [])


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.3])
def test_silence_and_very_short_audio_are_heard(recognizers: dict[str, Recognizer], seconds: float) -> None:
    for recognizer in recognizers.values():
        heard = recognizer.transcribe(np.zeros(round(seconds * RATE), np.float32))
        assert heard.seconds == pytest.approx(seconds)
        assert np.isfinite(heard.confidence)


def test_windows_are_joined_at_a_common_blank_near_the_middle_of_the_overlap() -> None:
    def frames(*tokens: int) -> Frames:
        return Frames(np.array(tokens), np.ones(len(tokens), np.float32))

    joined = frames(1, 2, 7, 3, 7, 5).join(frames(2, 6, 3, 7, 4, 7), 1, blank=7)
    assert joined.tokens.tolist() == [1, 2, 7, 3, 7, 4, 7]
    assert len(joined.probabilities) == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probabilities_are_at_least_as_exact_as_single_precision(dtype: torch.dtype) -> None:
    recognizer = conformer()
    recognizer.model.to(dtype)
    logits, _ = recognizer.logits([noise(2.0, 0)])
    (frames,) = recognizer._frames([noise(2.0, 0)])
    expected = logits[0].double().softmax(-1).amax(-1)
    assert np.abs(frames.probabilities - expected.numpy()).max() < 1e-6


def test_a_long_file_and_the_same_samples_in_a_batch_are_heard_alike(tmp_path: Path) -> None:
    recognizer = conformer()
    wave = noise(130.0, 3)
    soundfile.write(tmp_path / "long.wav", wave, RATE, subtype="FLOAT")
    streamed = recognizer.transcribe(tmp_path / "long.wav")
    batched, short = recognizer.transcribe_batch([wave, wave[:RATE]])
    assert streamed == batched
    assert streamed.seconds == pytest.approx(130.0)
    assert short == recognizer.transcribe(wave[:RATE])


def test_a_saved_recogniser_hears_the_same_when_loaded(
    recognizers: dict[str, Recognizer], tmp_path: Path
) -> None:
    for name, recognizer in recognizers.items():
        recognizer.model.float()
        folder = tmp_path / name.replace(" ", "-")
        recognizer.save_pretrained(folder)
        assert not list(folder.glob("*.bin"))
        loaded = secateur.load(folder)
        wave = noise(1.5, 7)
        assert torch.equal(loaded.logits([wave])[0], recognizer.logits([wave])[0])
        assert loaded.transcribe(wave) == recognizer.transcribe(wave)


def corrupt_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def forget_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_class(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def forget_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def edit(file: str, **settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def put_nan(folder: Path) -> None:
    recognizer = conformer()
    with torch.no_grad():
        recognizer.model.encoder.layers[1].conv.norm.running_var[0] = float("nan")
    recognizer.model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (corrupt_weights, "the weights do not load"),
        (forget_weights, "the weights do not load"),
        (other_class, "is a bert model; supported are CTC models"),
        (break_config, "no checkpoint that transformers can read"),
        (forget_tokenizer, "feature extractor or tokenizer does not load"),
        (spoil_tokenizer, "feature extractor or tokenizer does not load"),
        (edit("config.json", hidden_size="16"), "no checkpoint that transformers can read"),
        (edit("config.json", num_attention_heads=0), "no checkpoint that transformers can read"),
        (
            edit("preprocessor_config.json", feature_size=20),
            "features have 20 bins for each frame, and its model hears 16",
        ),
        (put_nan, "layers.1.conv.norm.running_var has values that are not finite"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    folder = tmp_path / "model"
    conformer().save_pretrained(folder)
    damage(folder)
    with pytest.raises(SecateurError, match=complaint) as caught:
        secateur.load(folder)
    assert "\n" not in str(caught.value)


def test_code_that_lies_beside_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    )
    with pytest.raises(SecateurError, match="no checkpoint that transformers can read"):
        secateur.load(tmp_path)
    conformer().save_pretrained(tmp_path / "model")
    (tmp_path / "mine.py").rename(tmp_path / "model" / "mine.py")
    own = {"feature_extractor_type": "Mine", "auto_map": {"AutoFeatureExtractor": "mine.Mine"}}
    edit("preprocessor_config.json", **own)(tmp_path / "model")
    with pytest.raises(SecateurError, match="feature extractor or tokenizer does not load"):
        secateur.load(tmp_path / "model")


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(SecateurError, match="the name of the model is empty; give a .nemo archive"):
        secateur.load("")


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("conformer", {"hop_length": 200}, "80 input_features for a second of audio; supported are 100"),
        ("wav2vec2", {"sampling_rate": 8000}, "8000 input_values for a second of audio; supported are 16000"),
    ],
)
def test_features_at_another_pace_are_refused(
    recognizers: dict[str, Recognizer],
    family: str,
    settings: dict[str, int],
    complaint: str,
    tmp_path: Path,
) -> None:
    recognizers[family].save_pretrained(tmp_path)
    features = tmp_path / "preprocessor_config.json"
    features.write_text(json.dumps(json.loads(features.read_text()) | settings))
    with pytest.raises(SecateurError, match=complaint):
        secateur.load(tmp_path)


def test_a_telephone_model_with_the_usual_hop_is_loaded(
    recognizers: dict[str, Recognizer], tmp_path: Path
) -> None:
    model, tokenizer = recognizers["conformer"].model, recognizers["conformer"].tokenizer
    features = ParakeetFeatureExtractor(feature_size=16, sampling_rate=8000, hop_length=80, win_length=200)
    Recognizer(model, features, tokenizer).save_pretrained(tmp_path)
    assert secateur.load(tmp_path).inputs_per_second == 100


def test_a_pruned_recogniser_is_written_with_the_code_that_rebuilds_it_and_a_dense_one_without(
    recognizers: dict[str, Recognizer], tmp_path: Path
) -> None:
    dense = recognizers["conformer"]
    plan = PruningPlan.keep(find_groups(dense.model), {"layers.0.conv.channels": []})
    sliced = slice_model(dense.model, plan)
    Recognizer(sliced, dense.features, dense.tokenizer).save_pretrained(tmp_path / "pruned")
    dense.save_pretrained(tmp_path / "dense")
    code = [sorted(path.name for path in (tmp_path / name).glob("*.py")) for name in ("pruned", "dense")]
    assert code == [["conformer.py", "modeling_pruned.py", "surgery.py"], []]
    assert "auto_map" in json.loads((tmp_path / "pruned" / "config.json").read_text())
    wave = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    again = secateur.load(tmp_path / "pruned")
    assert torch.equal(
        again.logits([wave])[0], Recognizer(sliced, dense.features, dense.tokenizer).logits([wave])[0]
    )


@pytest.mark.parametrize("path", ["/no/such/model.nemo", "./nothing", "model.nemo"])
def test_a_model_that_does_not_exist_is_named(path: str) -> None:
    with pytest.raises(SecateurError, match="does not exist"):
        secateur.load(path)


@pytest.fixture(scope="module")
def real(shared: Path) -> Recognizer:
    return secateur.load(shared / "models/conformer-ctc-small.nemo")


def test_the_real_conformer_hears_real_speech(real: Recognizer, shared: Path) -> None:
    utterances = list(open_corpus(shared / "data/librispeech/valid"))[:24]
    waves = [read_audio(u.path, RATE) for u in utterances]
    heard = [transcript for i in range(0, 24, 3) for transcript in real.transcribe_batch(waves[i : i + 3])]
    references = [(u.text or "").lower() for u in utterances]
    counted = jiwer.process_words(references, [transcript.text for transcript in heard])
    # A word may go one way or the other by rounding; features that are a little off cost several.
    assert abs(counted.substitutions + counted.deletions + counted.insertions - 13) <= 1
    for transcript in heard:
        assert [word.text for word in transcript.words] == transcript.text.split()
        assert 0 < transcript.confidence <= 1
        assert transcript.words[-1].end <= transcript.seconds


def test_the_real_features_are_what_they_were(real: Recognizer, shared: Path) -> None:
    utterance = next(iter(open_corpus(shared / "data/librispeech/valid")))
    features = real.prepare([read_audio(utterance.path, RATE)])["input_features"][0]
    expected = [
        [-0.663, -0.544, -0.692],
        [0.948, 1.202, 1.025],
        [-0.405, -0.701, -0.741],
        [0.725, 1.207, -0.180],
    ]
    torch.testing.assert_close(features[50:250:50, 5:80:25], torch.tensor(expected), atol=5e-3, rtol=0)


def test_joined_utterances_are_heard_in_windows_as_they_are_heard_alone(
    real: Recognizer, shared: Path
) -> None:
    utterances = [u for u in open_corpus(shared / "data/librispeech/valid") if "2902-9006" in u.id]
    waves = [read_audio(u.path, RATE) for u in utterances]
    alone = " ".join(real.transcribe(wave).text for wave in waves)
    joined = real.transcribe(np.concatenate(waves))
    assert joined.seconds > 100
    assert jiwer.wer(alone, joined.text) < 0.03
