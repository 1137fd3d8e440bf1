"""Weights on disk: they come back as they were, and a wrong file says what is wrong with it."""

from __future__ import annotations

import os
import stat
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamderain.errors import ModelError
from streamderain.frame import Frame
from streamderain.networks import (
    NetworkSpec,
    Provenance,
    describe,
    list_models,
    load_checkpoint,
    load_model,
    model_names,
    model_path,
    read_provenance,
    save_checkpoint,
)
from streamderain.networks.named import NAMED
from streamderain.networks.quantise import with_calibration
from streamderain.session import Derainer

_SPEC = NetworkSpec("streaming", {"channels": [4, 8, 8]})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, _SPEC.build(), _SPEC, Provenance(summary="tiny", steps=7), half=False)
    return path


def test_round_trip(tmp_path: Path) -> None:
    module = _SPEC.build()
    for half, tolerance in ((False, 0.0), (True, 1e-3)):
        save_checkpoint(tmp_path / "a.safetensors", module, _SPEC, Provenance(), half=half)
        loaded, spec = load_checkpoint(tmp_path / "a.safetensors")
        assert spec == _SPEC
        assert not loaded.training
        for key, tensor in loaded.state_dict().items():
            torch.testing.assert_close(tensor, module.state_dict()[key], atol=tolerance, rtol=tolerance)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    module, path = _SPEC.build(), tmp_path / "a.safetensors"
    files = set()
    for _ in range(12):
        save_checkpoint(path, module, _SPEC, Provenance(summary="Prüfung"), half=True)
        files.add(path.read_bytes())
    assert len(files) == 1
    assert int.from_bytes(files.pop()[:8], "little") % 8 == 0
    assert read_provenance(path) == Provenance(summary="Prüfung")


def test_loading_takes_nothing_of_the_programs_random_numbers(tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path / "a.safetensors"), _SPEC.build(), _SPEC, Provenance(), half=False)
    before = torch.get_rng_state()
    for name in (tmp_path / "a.safetensors", *model_names()):
        module, _ = load_model(name)
        assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} <= {"cpu"}
        assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_that_a_norm_has_counted_are_no_half_numbers(tmp_path: Path) -> None:
    spec = NetworkSpec("detail-resnet", {"channels": 2, "blocks": 1})
    module = spec.build()
    (count,) = (t for name, t in module.named_buffers() if name.endswith("num_batches_tracked"))
    count.fill_(100_001)  # more than float16 has
    save_checkpoint(tmp_path / "a.safetensors", module, spec, Provenance(), half=True)
    state = load_checkpoint(tmp_path / "a.safetensors")[0].state_dict()
    assert [int(t) for name, t in state.items() if name.endswith("num_batches_tracked")] == [100_001]


def test_card_is_counted_from_the_file(weights: Path) -> None:
    card = describe(weights)
    assert card.parameters == sum(t.numel() for t in load_file(weights).values())
    assert (card.name, card.summary, card.steps) == ("tiny", "tiny", 7)
    assert card.sha256 is not None
    assert len(card.sha256) == 64


def test_the_programs_default_dtype_changes_nothing(tmp_path: Path) -> None:
    path, module = tmp_path / "a.safetensors", _SPEC.build()
    save_checkpoint(path, module, _SPEC, Provenance(), half=False)
    card = describe(path)
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = load_checkpoint(path)[0].state_dict()
        assert describe(path) == card
    finally:
        torch.set_default_dtype(torch.float32)
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(loaded[key], tensor, atol=0, rtol=0)


def test_wrong_files_say_what_is_wrong(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'nope'.*fast.*safetensors file"):
        load_model("nope")
    with pytest.raises(ModelError, match="no weights file"):
        load_model(tmp_path / "gone.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, foreign)
    with pytest.raises(ModelError, match="not written by streamderain"):
        load_model(foreign)
    tensors = load_file(weights)
    tensors["extra"] = tensors.pop("stem.bias")
    save_file(tensors, weights, metadata={"spec": _SPEC.to_json()})
    with pytest.raises(ModelError, match=r"missing: \['stem.bias'\]; unexpected: \['extra'\]"):
        load_model(weights)


def test_of_thousands_of_wrong_tensors_the_first_are_named(weights: Path) -> None:
    tensors = load_file(weights)
    names = sorted(tensors)
    more = {f"{'x' * 90}.{index:04}": torch.zeros(1) for index in range(1000)}
    save_file(more, weights, metadata={"spec": _SPEC.to_json()})
    with pytest.raises(ModelError) as told:
        load_model(weights)
    line = str(told.value)
    assert f"missing: ['{names[0]}', '{names[1]}', " in line
    assert f"] and {len(names) - 8} more; unexpected: ['{'x' * 90}.0000', '" in line
    assert "… and 992 more; other shapes: []" in line
    assert (line.isprintable(), len(line) < 2000) == (True, True)
    nan = {name: torch.full_like(t, float("nan")) for name, t in tensors.items()}
    save_file(nan, weights, metadata={"spec": _SPEC.to_json()})
    with pytest.raises(ModelError, match=rf"not finite in \['{names[0]}', .*\] and {len(names) - 8} more"):
        load_model(weights)


def test_weights_that_are_not_finite_are_refused(weights: Path) -> None:
    tensors = load_file(weights)
    tensors["stem.bias"][0] = float("nan")
    save_file(tensors, weights, metadata={"spec": _SPEC.to_json()})
    with pytest.raises(ModelError, match="not finite"):
        load_model(weights)


def test_weights_of_another_kind_are_refused(weights: Path) -> None:
    tensors = load_file(weights)
    for kind in (torch.int8, torch.complex64):
        save_file({**tensors, "stem.bias": tensors["stem.bias"].to(kind)}, weights, metadata={"spec": _SPEC.to_json()})
        with pytest.raises(ModelError, match=rf"other types: \['stem\.bias: {kind} for torch\.float32'\]"):
            load_model(weights)


@pytest.mark.parametrize(
    "text",
    [
        '{"architecture": ["streaming"], "options": {}}',
        '{"architecture": {}, "options": {}}',
        '{"architecture": "streaming", "options": [4, 8, 8]}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8], "memory": "much"}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8], "memory": NaN}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8], "memory": 1e999}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, -8]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 0]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8.0]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8]}}',
        '{"architecture": "streaming", "options": {"channels": "wide"}}',
        '{"architecture": "streaming", "options": {"channels": [4096, 4096, 4096]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 1000000000000000000]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8], "encoder_blocks": [1, 1, 1000000000]}}',
        '{"architecture": "streaming", "options": {"channels": [4, 8, 8], "encoder_blocks": [4096, 4096, 4096]}}',
        '{"architecture": "prenet", "options": {"shared": "yes"}}',
        '{"architecture": "detail-resnet", "options": {"sigma_color": []}}',
        '{"architecture": "ecnet", "options": {"skips": 1}}',
        '{"architecture": "streaming", "options": {"a\\nb": 1}}',
        '["streaming"]',
        "[" * 200_000,
        "null",
        "not json",
    ],
    ids=lambda text: text[:100],
)
def test_a_damaged_header_is_told_in_one_line_and_costs_no_memory(
    text: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(load_file(weights), weights, metadata={"spec": text})
    build = NetworkSpec.build

    def without_memory(self: NetworkSpec) -> torch.nn.Module:
        assert torch.get_default_device() == torch.device("meta")
        return build(self)

    monkeypatch.setattr(NetworkSpec, "build", without_memory)
    with pytest.raises(ModelError, match=str(weights)) as told:
        Derainer(weights, device="cpu")
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 3000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[]",
        '"x"',
        '{"scores": 3}',
        '{"scores": ' + '{"a": ' * 400 + "1" + "}" * 401,
        '{"scores": {"a": ' + "[" * 400 + "]" * 400 + "}}",
        '{"summary": ["a"]}',
        '{"steps": "many"}',
        '{"colour": 1}',
        '{"' + "x" * 9999 + '\\n": 1}',
    ],
    ids=lambda text: text[:30],
)
def test_a_damaged_provenance_is_told_in_one_line(text: str, weights: Path) -> None:
    save_file(load_file(weights), weights, metadata={"spec": _SPEC.to_json(), "provenance": text})
    with pytest.raises(ModelError, match=r"the header of .* is damaged") as told:
        describe(weights)
    assert (str(told.value).isprintable(), len(str(told.value)) < 1000) == (True, True)


def test_weights_have_the_mode_of_any_other_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            save_checkpoint(path, _SPEC.build(), _SPEC, Provenance(), half=False)
            with_calibration(path, None, copy)
        finally:
            os.umask(before)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, copy)] == [mode, mode]
    assert set(tmp_path.iterdir()) == {path, copy}


def test_weights_that_cannot_be_written_leave_the_older_ones(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(weights, _SPEC.build(), _SPEC, Provenance(), half=True)
    assert weights.read_bytes() == before
    assert list(weights.parent.iterdir()) == [weights]


def test_shipped_weights_stay_small() -> None:
    paths = [path for name in model_names() if (path := model_path(name)) is not None]
    assert sum(path.stat().st_size for path in paths) <= 10_000_000


def test_unknown_architecture_and_options_are_named() -> None:
    with pytest.raises(ModelError, match=r"'transformer'.*streaming"):
        NetworkSpec("transformer").build()
    with pytest.raises(ModelError, match="colour"):
        NetworkSpec("streaming", {"colour": 3}).build()


def test_everything_shipped_loads_and_has_a_card() -> None:
    assert {"fast"} <= set(model_names())
    for name in model_names():
        module, _ = load_model(name)
        card = describe(name)
        assert sum(p.numel() for p in module.parameters()) == card.parameters
        if name not in ("classic", "identity"):
            assert card.licence
            assert card.trained_on
            assert card.scores


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("paper-a", 56_947),
        ("paper-a-wide", 891_331),
        ("ddn", 57_369),
        ("paper-b", 2_883_184),
        ("paper-b-as-written", 2_820_138),
        ("ecnet", 2_461_100),
        ("ecnet-ll", 8_730_764),
        ("prenet", 168_963),
    ],
)
def test_networks_of_the_papers_have_a_card(name: str, parameters: int) -> None:
    card = describe(name)
    assert (card.name, card.parameters) == (name, parameters)
    assert card.macs_720p > 0
    if name in model_names():
        assert card.sha256
        assert load_model(name)[1] == NAMED[name].spec
        return
    assert card.sha256 is None
    assert "no weights ship" in card.summary
    with pytest.raises(ModelError, match=rf"no weights ship for '{name}'.*python -m training.*\.safetensors"):
        load_model(name)


@pytest.mark.parametrize("name", NAMED)
def test_weights_of_a_papers_network_run_on_odd_frames(name: str, tmp_path: Path) -> None:
    spec = NAMED[name].spec
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "own.safetensors", spec.build(), spec, Provenance(), half=True)
    derainer = Derainer(tmp_path / "own.safetensors", device="cpu")
    for height, width in ((19, 30), (1, 3)):
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
        clean = derainer.session(height, width).step(Frame(pixels=pixels, pts=5, time_base=Fraction(1, 25)))
        assert (clean.pixels.shape, clean.pixels.dtype, clean.pts) == (pixels.shape, torch.uint8, 5)


def test_shipped_weights_are_listed_first() -> None:
    shipped = [card.sha256 is not None or card.name in ("classic", "identity") for card in list_models()]
    assert shipped == sorted(shipped, reverse=True)
    assert not all(shipped)


def test_a_name_of_a_paper_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prenet").mkdir()
    with pytest.raises(ModelError, match="no weights ship"):
        load_model("prenet")


def test_the_autoencoder_is_kept_like_the_others_and_derains_nothing(tmp_path: Path) -> None:
    spec = NetworkSpec("rain-autoencoder", {"channels": 4})
    path = tmp_path / "rain.safetensors"
    save_checkpoint(path, spec.build(), spec, Provenance(), half=False)
    assert load_checkpoint(path)[1] == spec
    assert describe(path).macs_720p > 0
    with pytest.raises(ModelError, match="derains nothing"):
        load_model(path)
