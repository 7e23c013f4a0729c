"""The comparison tool: it passes on what was recorded, on other sizes and token layouts, and it can fail."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfprompt.data.views import Views
from tests.independent import closed_form_heads, sep, text_heads, vit
from tests.independent.sep import Sizes
from tests.independent.vit import Layout
from tests.parity.__main__ import compare, main
from tests.parity.report import Arrays, Report
from tests.parity.sep import recorded_method

GOLDEN = Path(__file__).parent / "golden"
SLOW = {"spt_vitb16_mae_deep.npz"}


def failures(path: Path) -> list[str]:
    report = compare(path)
    assert report.quantities
    return [line for line in report.lines() if "FAIL" in line]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if path.name in SLOW else [])
        for path in sorted(GOLDEN.iterdir())
        if path.suffix in (".npz", ".json")
    ],
)
def test_recorded_results_are_reproduced(name: str) -> None:
    assert failures(GOLDEN / name) == []


def corrupted(folder: Path, name: str, array: str, change: float) -> Path:
    """A copy of a recorded file with one entry of one array moved."""
    for sibling in ("spt_weights.npz", "sep_tiny.npz"):
        shutil.copyfile(GOLDEN / sibling, folder / sibling)  # its mode too would keep a read-only checkout's
    arrays = dict(Arrays(GOLDEN / name))
    moved = np.array(arrays[array])
    moved.flat[moved.size // 2] += change
    np.savez(folder / name, **(arrays | {array: moved}))
    return folder / name


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("spt_fwd_mae_deep.npz", "logits"),
        ("spt_fwd_mae_deep.npz", "grad_prompt_token"),
        ("spt_fwd_mae_deep.npz", "block_out_img0"),
        ("spt_fwd_mae_deep.npz", "images"),
        ("spt_fwd_plain.npz", "features_mae_norm"),
        ("spt_prompts.npz", "max_p6.prompt"),
        ("spt_family_gatevpt_mae.npz", "grad_temp"),
        ("spt_nmi.npz", "qk_nmi"),
        ("spt_lr_schedule.npz", "group_lr_1"),
        ("spt_train_cls_deep.npz", "snap_ema_head_weight"),
        ("sep_tiny.npz", "out/logits"),
        ("sep_tiny.npz", "tfm.text.1.prompts_out"),
        ("sep_tiny.npz", "grad/ctx"),
        ("sep_tiny_train.npz", "step3/param/visual_prompts.0.scale1"),
        ("sep_protocol.npz", "transform/eval_output_48"),
        ("two_stage.npz", "stage2.classifier_f64"),
        ("two_stage.npz", "grad.transformer.resblocks.1.ln_2.bias_f64"),
        ("clipsvd.npz", "S3.mlp.c_proj_f64"),
        ("bpt.npz", "cls_deep.grad_B_f64"),
        ("vipamin.npz", "match_k2_f64"),
        ("vipamin.npz", "orthogonal_right_f64"),
        ("mmrl.npz", "grad_rep_text_bias_f64"),
        ("clap.npz", "plain.zs_l2_raw.weights_epoch20_f64"),
        ("proker.npz", "views.logits_shots16_f32"),
        ("sstext.npz", "unbalanced.ss_text_plus.weights_f64"),
        ("prolip.npz", "e30_lr0.001.proj_f32"),
        ("ape.npz", "apet.top_k_fixed.res_f32"),
        ("tipx.npz", "kl_f64"),
        ("semobridge.npz", "csb.step20.class_bias_f64"),
    ],
)
def test_a_moved_number_fails_with_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, array: str
) -> None:
    path = corrupted(tmp_path, name, array, 1e-3)
    assert main([str(path)]) == 1
    printed = capsys.readouterr().out
    assert str(path) in printed
    assert array in "".join(line for line in printed.splitlines() if "FAIL" in line) or array == "images"


@pytest.mark.parametrize(
    ("name", "array"), [("sep_protocol.npz", "subsample/base/index"), ("sep_tiny.npz", "out/topk_index.0")]
)
def test_integers_must_be_equal(tmp_path: Path, name: str, array: str) -> None:
    (line,) = failures(corrupted(tmp_path, name, array, 1))
    assert line.startswith(array)


@pytest.mark.parametrize(("size", "difference", "passed"), [(9, 1.4e-5, True), (9, 1e-4, False), (1, 1.4e-5, False)])
def test_large_entries_may_differ_in_proportion(size: float, difference: float, passed: bool) -> None:
    report = Report()
    report.check("tokens", np.array([size, difference]), np.array([size, 0.0]))
    assert report.passed == passed


def test_not_a_number_fails(tmp_path: Path) -> None:
    assert failures(corrupted(tmp_path, "spt_fwd_plain.npz", "logits_cls", float("nan")))


def test_another_shape_fails_with_a_message(tmp_path: Path) -> None:
    path = corrupted(tmp_path, "spt_fwd_plain.npz", "logits_cls", 0)
    arrays = dict(Arrays(path))
    np.savez(path, **(arrays | {"logits_cls": arrays["logits_cls"][:2]}))
    (line,) = failures(path)
    assert "shape (4, 5), recorded (2, 5)" in line


def test_a_wrong_group_in_the_json_fails(tmp_path: Path) -> None:
    recorded = json.loads((GOLDEN / "spt_param_groups.json").read_text())
    next(iter(recorded["groups"].values()))[1]["names"].append("pos_embed")
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(recorded))
    (line,) = failures(path)
    assert "group 1 names" in line


def test_files_that_are_nothing_known_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "other.npz", apples=np.zeros(3), pears=np.ones(2))
    with pytest.raises(ValueError, match=r"other\.npz: not a recorded file of a known form; it holds apples, pears"):
        compare(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.npz").touch()
    good = GOLDEN / "spt_lr_schedule.npz"
    bad = [str(tmp_path / f"{name}.npz") for name in ("missing", "broken", "empty", "other")]
    assert main([*bad, str(good)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL: ") == 4
    assert "FAIL: FileNotFoundError" in printed
    assert "missing.npz" in printed
    assert printed.rstrip().endswith("6 quantities, 0 failed")  # a bad file does not stop the next


def test_good_files_have_exit_status_0_and_no_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN / "spt_nmi.npz")]) == 0
    assert main([]) == 2
    assert "usage: python -m tests.parity FILE" in capsys.readouterr().out


# Files of other sizes and token layouts, recorded from a forward of our own that shares no code with the library.

LAYOUTS = {
    "wider, deeper, coarser": Layout(width=60, heads=5, depth=6, patch=16, image=(64, 64), mlp_ratio=1.5),
    "one block": Layout(depth=1, heads=1, classes=2),
    "not square": Layout(image=(24, 40), patch=8),
    "distilled": Layout(distilled=True),
    "registers": Layout(registers=4),
    "registers without positions": Layout(registers=2, prefix_positions=False),
    "norm before the blocks": Layout(pre_norm=True),
    "no class token": Layout(class_token=False),
    "registers, no class token": Layout(class_token=False, registers=3),
    "layer scale, no bias": Layout(layer_scale=True, qkv_bias=False),
    "other epsilon": Layout(eps=1e-3),
    "norm called fc_norm": Layout(final_norm="fc_norm"),
}


def noise(*shape: int, seed: int, std: float = 1.0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record_spt(path: Path, layout: Layout, *, deep: bool, average: bool, count: int) -> Path:
    weights, images = vit.draw_weights(layout, 1), noise(3, 3, *layout.image, seed=2)
    prompts = noise(layout.depth if deep else 1, count, layout.width, seed=3)

    def features(weights: vit.Weights, prompt_token: Tensor) -> Tensor:
        return vit.run(images.to(prompt_token), weights, layout, prompt_token, average=average)[0]

    labels = torch.tensor([0, 1, 1])
    arrays = vit.in_both_precisions(weights, {"prompt_token": prompts}, labels, features)
    _, entering, leaving = vit.run(images[:1], weights, layout, prompts, average=average)
    arrays |= {"images": images, "block_in_img0": torch.cat(entering), "block_out_img0": torch.cat(leaving)}
    kind = f"{'mae' if average else 'cls'}_{'deep' if deep else 'shallow'}"
    return vit.save(path, layout, weights, arrays, kind=kind, deep=deep, num_prompts=count, global_pool=average)


@pytest.mark.parametrize("name", LAYOUTS)
def test_spt_of_other_token_layouts(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    deep = record_spt(tmp_path / "deep.npz", layout, deep=True, average=True, count=5)
    shallow = record_spt(tmp_path / "shallow.npz", layout, deep=False, average=not layout.class_token, count=1)
    assert failures(deep) + failures(shallow) == []


def record_family(path: Path, layout: Layout, method: str, backbone: str) -> Path:
    weights, images = vit.draw_weights(layout, 4), noise(4, 3, *layout.image, seed=5)
    inputs = {"prompt_embeddings": noise(1, 3, layout.width, seed=6)}
    average = backbone == "mae"
    if method == "gatevpt":
        inputs["gate_logit"] = noise(layout.depth - 1, seed=7)
        inputs["temp"] = noise(layout.depth, seed=8).abs() + 0.3

        def features(weights: vit.Weights, prompt_embeddings: Tensor, gate_logit: Tensor, temp: Tensor) -> Tensor:
            tuned = prompt_embeddings, gate_logit, temp
            return vit.run_gated(images.to(temp), weights, layout, *tuned, average=average)
    else:
        inputs["deep_prompt_embeddings"] = noise(layout.depth - 1, 3, layout.width, seed=7)

        def features(weights: vit.Weights, **tuned: Tensor) -> Tensor:  # type: ignore[misc]
            prompts = torch.cat([tuned["prompt_embeddings"], tuned["deep_prompt_embeddings"]])
            return vit.run(images.to(prompts), weights, layout, prompts, average=average)[0]

    labels = torch.arange(4) % layout.classes
    arrays = vit.in_both_precisions(weights, inputs, labels, features) | {"images": images}
    return vit.save(path, layout, weights, arrays, method=method, backbone=backbone, pool="original")


@pytest.mark.parametrize("backbone", ["mae", "moco"])
@pytest.mark.parametrize("method", ["vpt", "gatevpt"])
@pytest.mark.parametrize("name", ["wider, deeper, coarser", "distilled", "registers", "layer scale, no bias"])
def test_vpt_and_gatevpt_of_other_token_layouts(tmp_path: Path, name: str, method: str, backbone: str) -> None:
    assert failures(record_family(tmp_path / "x.npz", LAYOUTS[name], method, backbone)) == []


def released_windows(tokens: Tensor, count: int, pool: Callable[..., Tensor]) -> Tensor:
    """Pooled windows by the released arithmetic, (depth, B, N, D) -> (depth, P, B, D)."""
    width = tokens.shape[2] // (count - 1)
    rest = tokens.shape[2] % width
    parts = [tokens[:, :, k * width : (k + 1) * width] for k in range(count - 1)] + [tokens[:, :, -rest:]]
    return torch.stack([pool(part, dim=2) for part in parts], dim=1)


def record_prompts(path: Path, layout: Layout) -> Path:
    weights, images = vit.draw_weights(layout, 1), noise(5, 3, *layout.image, seed=2)
    places = torch.tensor([4, 0, 4, 2])
    tokens = vit.collect(images[places], weights, layout)
    arrays: dict[str, Any] = {"images": images}
    cases = [
        {"tag": "rand_deep", "strategy": "random", "deep": True, "num_prompts": 4},
        {"tag": "rand_shallow", "strategy": "random", "deep": False, "num_prompts": 9},
        {"tag": "mean_p4", "strategy": "mean_pooling", "deep": True, "num_prompts": 4},
        {"tag": "max_p6", "strategy": "max_pooling", "deep": True, "num_prompts": 6},
        {"tag": "flag_shallow", "strategy": "max_pooling", "deep": False, "num_prompts": 3},
    ]
    for number, case in enumerate(cases):
        tag, count = case["tag"], int(case["num_prompts"])
        layers = tokens if case["deep"] else tokens[:1]
        candidates = layers.flatten(1, 2)
        if case["deep"] and case["strategy"] != "random":
            pool = torch.mean if case["strategy"] == "mean_pooling" else torch.amax
            windows = released_windows(tokens, count, pool)
            arrays[f"{tag}.candidates"], candidates = windows, windows.flatten(1, 2)
        order = noise(len(layers), candidates.shape[1], seed=10 + number)
        kept = order.argsort(dim=1)[:, :count]
        arrays |= {f"{tag}.sample_idx": places, f"{tag}.noise": order, f"{tag}.keep_idx": kept}
        arrays[f"{tag}.prompt"] = torch.stack([rows[index] for rows, index in zip(candidates, kept, strict=True)])
    return vit.save(path, layout, weights, arrays | {"rand_deep.tokens": tokens}, cases=cases)


@pytest.mark.parametrize("name", ["one block", "not square", "distilled", "registers without positions"])
@pytest.mark.parametrize("class_token", [True, False], ids=["", "no class token"])
def test_prototypes_of_other_token_layouts(tmp_path: Path, name: str, class_token: bool) -> None:
    layout = LAYOUTS[name]
    if not layout.distilled:
        layout = replace(layout, class_token=class_token)
    assert failures(record_prompts(tmp_path / "spt_prompts_x.npz", layout)) == []


CLIPS = {
    "more heads": Sizes(vw=128, tw=192, res=24, patch=6, embed=40),
    "layers with gaps, block 0": Sizes(vl=5, tl=5, layers=(0, 2, 4), n_ctx=2, n_ctx_v=5),
    "prompts longer than the texts": Sizes(n_ctx=7, n_ctx_v=1, names=(1, 1, 2), layers=(2,)),
    "every block": Sizes(layers=(0, 1, 2), n_ctx=1, n_ctx_v=3, vl=4, batch=7, names=(6, 1)),
    "one image": Sizes(vl=2, tl=2, layers=(1,), batch=1, W=1.0, W_V=0.5),
}


@pytest.mark.parametrize("name", CLIPS)
def test_sep_of_other_sizes(tmp_path: Path, name: str) -> None:
    sizes = CLIPS[name]
    path = sep.save(tmp_path / "x.npz", sep.record_step(sep.draw_case(sizes, 1)), sizes)
    assert failures(path) == []


def test_sep_training_of_other_sizes_reads_the_weights_next_to_it(tmp_path: Path) -> None:
    sizes = Sizes(layers=(0, 2), n_ctx=4, n_ctx_v=1, tw=128)
    case = sep.draw_case(sizes, 2)
    sep.save(tmp_path / "sep_other.npz", sep.record_step(case), sizes)
    path = sep.save(tmp_path / "sep_other_train.npz", sep.record_training(case, 3))
    assert failures(path) == []


@pytest.mark.parametrize("name", CLIPS)
def test_sep_that_fuses_within_one_input(tmp_path: Path, name: str) -> None:
    """The corrected rule, which no recorded file has: outputs, losses and gradients of an independent forward."""
    sizes = CLIPS[name]
    case = sep.draw_case(sizes, 3)
    path = sep.save(tmp_path / "x.npz", sep.record_step(case, "tokens"), sizes)
    arrays = Arrays(path)
    method = recorded_method(arrays, fusion_axis="tokens", selection="image")
    terms = method.loss(Views(case.images, labels=case.labels))
    terms.backward()
    assert (terms.total.detach() - arrays.tensor("out/loss_total")).abs() < 1e-5
    assert (terms.logits - arrays.tensor("out/logits")).abs().max() < 2e-5  # float32 order; logits exceed 10
    gradients = {name: p.grad for name, p in method.trainable().items()}
    for theirs, ours in {
        "ctx": "text_prompts",
        "ctx_visual": "image_prompts",
        "prompt_projections.0.scale1": "text_fusions.0.keep_tokens",
        "visual_prompts.0.promt_attention_visual.in_proj_weight": "image_fusions.0.attention.in_proj_weight",
        "VPT_fc.weight": "prototypes",
    }.items():
        recorded, own = arrays.tensor(f"grad/{theirs}"), gradients[ours]
        assert own is not None
        assert (own - recorded).abs().max() < max(1e-5, 1e-4 * float(recorded.abs().max()))
    batch = recorded_method(arrays).loss(Views(case.images, labels=case.labels))
    assert abs(float(batch.total.detach()) - float(terms.total.detach())) > 1e-3  # the rules do differ


@pytest.mark.parametrize(("classes", "shots", "width", "views"), [(7, 2, 24, 4), (3, 5, 16, 1)])
def test_heads_of_other_sizes(tmp_path: Path, classes: int, shots: int, width: int, views: int) -> None:
    inputs = text_heads.draw(tmp_path, classes=classes, shots=shots, width=width, views=views, templates=2, test=11)
    assert failures(tmp_path / "heads_inputs.npz") == []
    assert failures(text_heads.proker(tmp_path / "proker.npz", inputs, 2.0, 0.3)) == []
    assert failures(text_heads.ss_text(tmp_path / "sstext.npz", inputs)) == []
    assert failures(text_heads.tipx(tmp_path / "tipx.npz", inputs)) == []


HEADS = {
    "fewer": closed_form_heads.Sizes(),
    "more channels than images": closed_form_heads.Sizes(classes=4, width=40, views=3, test=9, new=3),
    "many shots": closed_form_heads.Sizes(classes=2, shots=9, width=5, views=1, templates=1, test=17, new=5),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_other_sizes_read_the_inputs_beside_them(tmp_path: Path, name: str) -> None:
    inputs = closed_form_heads.draw_inputs(HEADS[name], 1)
    paths = [closed_form_heads.save(tmp_path / "heads_inputs.npz", inputs)]
    paths.append(closed_form_heads.save(tmp_path / "gda.npz", closed_form_heads.record_gda(inputs, neighbours=3)))
    recorded = closed_form_heads.record_lppp(inputs, (2, 10, 31), seed=2)
    paths.append(closed_form_heads.save(tmp_path / "lppp.npz", recorded))
    paths.append(closed_form_heads.save(tmp_path / "simpleshot.npz", closed_form_heads.record_simpleshot(inputs)))
    for path in paths:
        assert failures(path) == []


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("gda.npz", "views.W_f64"),
        ("gda.npz", "plain.b2n_cov_inv_new_f32"),
        ("lppp.npz", "e10.alpha_f64"),
        ("lppp.npz", "kept_logits_f32"),
        ("simpleshot.npz", "CL2N.distance_f32"),
    ],
)
def test_a_moved_number_of_a_head_fails(tmp_path: Path, name: str, array: str) -> None:
    change = 1e-3 * float(np.abs(Arrays(GOLDEN / name)[array]).max())
    (line,) = failures(corrupted(tmp_path, name, array, change))
    assert line.startswith(array)
