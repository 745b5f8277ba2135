"""Loading: the logits of every layout against transformers, views instead of copies, and what is
refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import (
    ODD,
    SHAPES,
    add_tensor,
    dequantize,
    drop_tensor,
    edit_json,
    hf_logits,
    hf_model,
    our_logits,
    read_by_hf,
    relative,
    text,
)

from ossia.batch import Batch
from ossia.checkpoint import convert, load, open_checkpoint
from ossia.checkpoint.mapped import SINGLE
from ossia.errors import CheckpointError, ConfigError, TensorMismatchError
from ossia.model import PackedExperts, TrainableExperts

TOLERANCE = 1e-5
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full-precision experts as transformers saves them."""
    directory = tmp_path_factory.mktemp("full") / "model"
    hf_model(dtype=torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def packed(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed") / "model"
    convert(full, directory, "hf")
    return directory


@pytest.fixture(scope="module")
def original(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("original") / "model"
    convert(packed, directory, "original")
    return directory


@pytest.fixture
def copy_of(tmp_path: Path) -> Any:
    """A copy that a test may damage."""

    def copy(source: Path) -> Path:
        target = tmp_path / "copy"
        target.mkdir()
        for file in source.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    return copy


# ---- against transformers ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shard", ["100GB", "60KB"])
def test_full_precision_as_transformers_saves_it(
    dtype: torch.dtype, shard: str, tmp_path: Path
) -> None:
    hf = hf_model(dtype=dtype)
    hf.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "60KB")
    model, tokens_T = load(tmp_path, "float32"), text()
    assert open_checkpoint(tmp_path).layout == "hf-bf16"
    assert isinstance(model.layers[0].moe.experts.down, TrainableExperts)
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert relative(hf_logits(hf.float(), tokens_T), our_logits(model, tokens_T)) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_mxfp4_in_three_layouts_against_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    """transformers decodes the MXFP4 file itself, and reads our decoded one: all give the same
    logits.
    """
    places = {layout: tmp_path / layout for layout in ("full", "hf", "original", "hf-bf16")}
    hf_model(shape).save_pretrained(places["full"])
    convert(places["full"], places["hf"], "hf", floats="float32")
    convert(places["hf"], places["original"], "original", floats="float32")
    convert(places["original"], places["hf-bf16"], "hf-bf16", floats="float32")
    tokens_T = text(150)
    expected = hf_logits(read_by_hf(places["hf"], quantization_config=dequantize()), tokens_T)
    assert relative(expected, hf_logits(read_by_hf(places["hf-bf16"]), tokens_T)) < TOLERANCE
    for layout in ("hf", "original", "hf-bf16"):
        model = load(places[layout], "float32")
        leaf = TrainableExperts if layout == "hf-bf16" else PackedExperts
        assert isinstance(model.layers[0].moe.experts.down, leaf)
        assert relative(expected, our_logits(model, tokens_T)) < TOLERANCE


def test_dequantized_experts_that_transformers_saves_under_the_wrong_names(
    packed: Path, tmp_path: Path
) -> None:
    hf = read_by_hf(packed, quantization_config=dequantize())
    hf.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    if not any(name.endswith("_blocks") for name in checkpoint.source.names()):
        pytest.skip("this version of transformers saves them under the right names")
    assert checkpoint.layout == "hf-bf16"
    assert (
        relative(hf_logits(hf, text()), our_logits(load(tmp_path, "float32"), text())) < TOLERANCE
    )


@pytest.mark.parametrize("truncate", [True, False, None])
def test_rope_under_its_old_and_new_names(truncate: bool | None, tmp_path: Path) -> None:
    rope = {key: value for key, value in ODD["rope_parameters"].items() if key != "truncate"}
    rope |= {} if truncate is None else {"truncate": truncate}
    hf = hf_model(ODD | {"rope_parameters": rope})
    hf.save_pretrained(tmp_path)
    expected = hf_logits(hf, text())
    assert relative(expected, our_logits(load(tmp_path, "float32"), text())) < TOLERANCE

    def older(data: dict[str, Any]) -> None:
        scaling = data.pop("rope_parameters")
        data["rope_theta"] = scaling.pop("rope_theta")
        data["rope_scaling"] = scaling

    edit_json(tmp_path / "config.json", older)
    assert relative(expected, our_logits(load(tmp_path, "float32"), text())) < TOLERANCE


# ---- what the model is made of ----


def test_a_loaded_model_is_ready_for_inference(packed: Path) -> None:
    model = load(packed)
    assert (model.compute_dtype, model.residual_dtype) == (torch.bfloat16, torch.float32)
    assert not model.training and not any(
        parameter.requires_grad for parameter in model.parameters()
    )
    assert load(packed, "float32").compute_dtype == torch.float32
    assert our_logits(model, text()).isfinite().all()


@pytest.mark.parametrize("layout", ["full", "packed", "original"])
def test_every_tensor_is_a_view_of_its_file(layout: str, request: pytest.FixtureRequest) -> None:
    """Native tensors share the storage of stored ones, which are as large as their bytes in the
    file.
    """
    directory = request.getfixturevalue(layout)
    checkpoint, model = open_checkpoint(directory), load(directory)
    state = checkpoint.tensors
    assert {name: (t.dtype, t.shape) for name, t in state.items()} == {
        name: (t.dtype, t.shape) for name, t in model.state_dict().items()
    }
    for row in checkpoint.rows:
        entry = checkpoint.source.entry(row.stored)
        stored = checkpoint.source.tensor(row.stored)
        assert row.view(stored).untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
        assert stored.untyped_storage().nbytes() == entry.end - entry.begin


def test_q_k_and_v_of_the_original_layout_share_their_memory(original: Path) -> None:
    attn = load(original).layers[0].attn
    width = attn.q.weight.shape[1] * attn.q.weight.itemsize
    assert attn.k.weight.data_ptr() == attn.q.weight.data_ptr() + attn.q.weight.shape[0] * width
    assert attn.v.weight.data_ptr() == attn.k.weight.data_ptr() + attn.k.weight.shape[0] * width


def test_writing_to_a_loaded_model_leaves_the_file(packed: Path) -> None:
    before = (packed / SINGLE).read_bytes()
    model = load(packed)
    with torch.no_grad():
        model.norm.scale.fill_(7)
    assert (packed / SINGLE).read_bytes() == before
    assert not bool((load(packed).norm.scale == 7).any())


@pytest.mark.gpu
def test_a_model_on_another_device(packed: Path) -> None:
    model, tokens_T = load(packed, "float32", "cuda"), text()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    with torch.no_grad():
        found = model(tokens_T.cuda(), Batch.packed([len(tokens_T)], "cuda"))
    assert relative(our_logits(load(packed, "float32"), tokens_T), found.cpu()) < 1e-4


# ---- which directory ----


def test_a_repository_folder_that_holds_only_original(original: Path, tmp_path: Path) -> None:
    (tmp_path / "original").symlink_to(original)
    assert open_checkpoint(tmp_path).layout == "original"
    assert torch.equal(our_logits(load(tmp_path), text()), our_logits(load(original), text()))


def test_hugging_face_files_come_before_original(
    packed: Path, original: Path, copy_of: Any
) -> None:
    repository = copy_of(packed)
    (repository / "original").symlink_to(original)
    assert open_checkpoint(repository).layout == "hf"
    assert open_checkpoint(repository / "original").layout == "original"


def test_original_in_several_files_without_an_index(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "o", "original", max_shard_bytes=50_000)
    assert len(list((tmp_path / "o").glob("*.safetensors"))) > 3
    assert not list((tmp_path / "o").glob("*.index.json"))
    assert torch.equal(our_logits(load(tmp_path / "o"), text()), our_logits(load(packed), text()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "no such directory"),
        (lambda path: path / SINGLE, "is a file"),
        (lambda path: path / "empty", "no \\*.safetensors files"),
    ],
)
def test_a_path_that_holds_no_checkpoint(
    make: Any, message: str, packed: Path, copy_of: Any
) -> None:
    directory = copy_of(packed)
    (directory / "empty").mkdir()
    with pytest.raises(CheckpointError, match=message):
        load(make(directory))


def test_a_compute_dtype_that_there_is_not(packed: Path) -> None:
    with pytest.raises(ConfigError, match="float16"):
        load(packed, "float16")  # type: ignore[arg-type]


# ---- contradictions ----


def test_config_missing(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: the file is missing"):
        load(directory)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1, "a": 2}', "\xff", "[" * 100_000])
def test_config_is_no_json_object(content: str, packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    (directory / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(directory)


def test_config_of_another_model(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    edit_json(directory / "config.json", lambda data: data.update(model_type="llama"))
    with pytest.raises(ConfigError, match=r"config\.json.*llama"):
        load(directory)


@pytest.mark.parametrize("layout", ["full", "packed"])
def test_the_tensors_decide_whether_experts_are_packed(
    layout: str, request: pytest.FixtureRequest, copy_of: Any
) -> None:
    directory = copy_of(request.getfixturevalue(layout))
    expected = our_logits(load(directory), text())
    for config in ({"quant_method": "mxfp4"}, None, {}):
        edit_json(
            directory / "config.json",
            lambda data, config=config: data.update(quantization_config=config),
        )
        assert torch.equal(our_logits(load(directory), text()), expected)


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "bitsandbytes"}, {"a": 1}, "mxfp4", {"quant_method": ["mxfp4"]}],
)
def test_another_quantization_is_refused(quantization: Any, packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    edit_json(directory / "config.json", lambda data: data.update(quantization_config=quantization))
    with pytest.raises(CheckpointError, match="quantized as"):
        load(directory)


def test_missing_tensors_are_all_counted(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    names = [f"model.layers.{n}.self_attn.{letter}_proj.bias" for n in range(3) for letter in "qk"]
    drop_tensor(directory / SINGLE, *names)
    with pytest.raises(
        TensorMismatchError,
        match=r"lacks .*layers\.0\.self_attn\.q_proj\.bias.*1 more \(6 tensors\)",
    ):
        load(directory)


def test_unknown_tensors_are_named(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    add_tensor(directory / SINGLE, **{"model.layers.0.self_attn.q_norm.weight": torch.ones(16)})
    with pytest.raises(
        TensorMismatchError, match=r"does not imply: model\.layers\.0\.self_attn\.q_norm\.weight$"
    ):
        load(directory)


def test_rotary_frequencies_are_no_offence(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    add_tensor(directory / SINGLE, **{"model.rotary_emb.inv_freq": torch.ones(8)})
    assert torch.equal(our_logits(load(directory), text()), our_logits(load(packed), text()))


def test_experts_packed_in_one_layer_and_not_in_another(
    packed: Path, full: Path, copy_of: Any
) -> None:
    directory = copy_of(packed)
    name = "model.layers.1.mlp.experts.down_proj"
    drop_tensor(directory / SINGLE, name + "_blocks", name + "_scales")
    add_tensor(directory / SINGLE, **{name: torch.zeros(6, 64, 96)})
    with pytest.raises(
        TensorMismatchError,
        match=r"lacks .*down_proj_blocks, .*it has .*layers\.1\.mlp\.experts\.down_proj",
    ):
        load(directory)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "model.norm.weight",
            torch.ones(95),
            r"expected BF16 or F16 or F32 \[96\], found F32 \[95\]",
        ),
        ("model.norm.weight", torch.ones(96, dtype=torch.int8), r"expected BF16.* found I8 \[96\]"),
        ("model.norm.weight", torch.ones(1, 96), r"expected BF16.* found F32 \[1, 96\]"),
        (
            "model.layers.1.mlp.experts.down_proj_scales",
            torch.ones(6, 96, 2),
            r"expected U8 \[6, 96, 2\], found F32",
        ),
        ("lm_head.weight", torch.ones(96, 321), r"expected .* \[321, 96\], found F32 \[96, 321\]"),
    ],
)
def test_a_tensor_of_another_shape_or_dtype(
    name: str, tensor: torch.Tensor, message: str, packed: Path, copy_of: Any
) -> None:
    directory = copy_of(packed)
    add_tensor(directory / SINGLE, **{name: tensor})
    with pytest.raises(TensorMismatchError, match=f"{SINGLE}: tensor '{name}': {message}"):
        load(directory)


def test_a_config_that_disagrees_with_the_tensors(original: Path, copy_of: Any) -> None:
    directory = copy_of(original)
    edit_json(directory / "config.json", lambda data: data.update(intermediate_size=96))
    with pytest.raises(
        TensorMismatchError,
        match=r"mlp1_weight\.blocks.*expected U8 \[6, 192, 3, 16\], found U8 \[6, 128, 3, 16\]",
    ):
        load(directory)


def test_a_width_that_mxfp4_cannot_hold(original: Path, copy_of: Any) -> None:
    directory = copy_of(original)
    edit_json(directory / "config.json", lambda data: data.update(hidden_size=100))
    with pytest.raises(CheckpointError, match="multiples of 32, found 100 and 64"):
        load(directory)


def test_tensors_of_another_model(packed: Path, copy_of: Any) -> None:
    directory = copy_of(packed)
    drop_tensor(directory / SINGLE, *json_names(directory))
    add_tensor(directory / SINGLE, **{"transformer.h.0.attn.weight": torch.ones(2)})
    with pytest.raises(
        TensorMismatchError,
        match=r"not hold a gpt-oss model.*found transformer\.h\.0\.attn\.weight",
    ):
        load(directory)


def json_names(directory: Path) -> list[str]:
    raw = (directory / SINGLE).read_bytes()
    return [
        name
        for name in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        if name != "__metadata__"
    ]


@pytest.mark.parametrize("layout", ["packed", "original"])
def test_a_config_that_claims_more_layers_than_there_can_be_makes_nothing_for_each(
    layout: str, copy_of: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(request.getfixturevalue(layout))

    def never(*args: object) -> None:
        raise AssertionError("the table has a row for every tensor of every layer")

    monkeypatch.setattr(sys.modules["ossia.checkpoint.load"], "table", never)

    def claim(config: Any) -> None:
        config["num_hidden_layers"] = 9_999
        config.pop("layer_types", None)

    edit_json(directory / "config.json", claim)
    with pytest.raises(TensorMismatchError, match=r"config.json: says .* 9999 layers, but only"):
        open_checkpoint(directory)
