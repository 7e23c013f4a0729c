"""The parts of the pretraining, on small drawings made by the tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP

from pretraining.captions import in_template, make_captions
from pretraining.clip import Glance, Pretrainer, start_from_mae
from pretraining.concepts import Concept, Emoji, Forbidden, frequent, icon_concept, icon_words, spoken
from pretraining.corpus import render_set
from pretraining.drawings import drawings, without_ending
from pretraining.export import clip_state, write_weights
from pretraining.mae import Autoencoder, mae_state
from pretraining.measure import Drawn, Task, nearest, probe, zero_shot
from pretraining.muon import Muon, orthogonal
from pretraining.render import is_black, render
from pretraining.samples import compose
from pretraining.sets import SETS, Set, chosen
from pretraining.training import Clock
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.open_clip_vit import clip_towers

CIRCLE = '<circle cx="12" cy="12" r="10" fill="currentColor"/>'


def package(folder: Path, drawn: Set, icons: dict[str, str], licence: str = "MIT") -> None:
    """Write the files of a set that npm installs."""
    inside = folder / "node_modules" / drawn.npm
    inside.mkdir(parents=True)
    bodies = {name: {"body": body} for name, body in icons.items()}
    (inside / "icons.json").write_text(json.dumps({"icons": bodies, "width": 24, "height": 24}))
    (inside / "info.json").write_text(json.dumps({"license": {"spdx": licence}, "author": {"name": "Ann"}}))
    (inside / "package.json").write_text(json.dumps({"version": "1.0.0"}))


def test_families_are_either_trained_on_or_held_out() -> None:
    seen = {drawn.family for drawn in chosen("pretrain")}
    assert seen
    assert not seen & {drawn.family for drawn in SETS if drawn.role != "pretrain"}


def test_share_alike_drawings_neither_train_nor_ship() -> None:
    assert {drawn.role for drawn in SETS if "-SA-" in drawn.licence} == {"measure-only"}


def test_every_set_is_pinned() -> None:
    folder = Path(__file__).parents[2] / "pretraining"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert {drawn.npm for drawn in SETS} <= wanted.keys()
    for name in wanted:
        assert locked[f"node_modules/{name}"]["integrity"].startswith("sha512-")
        assert "resolved" not in locked[f"node_modules/{name}"]


def test_endings_choose_variants() -> None:
    drawn = Set("x", "MIT", "x", "pretrain", keep=("", "-fill"), endings=("-fill", "-thin"))
    assert [without_ending(name, drawn) for name in ("cat", "cat-fill", "cat-thin")] == ["cat", "cat", None]


def test_a_set_is_rendered_and_recorded(tmp_path: Path) -> None:
    drawn = Set("dots", "MIT", "dots", "pretrain")
    package(tmp_path, drawn, {"dot": CIRCLE, "nothing": "<g/>", "logo-x": CIRCLE})
    render_set(tmp_path, tmp_path, drawn)
    entry = json.loads((tmp_path / "dots.json").read_text())
    assert (entry["drawings"], entry["licence"], entry["author"], entry["version"]) == (1, "MIT", "Ann", "1.0.0")
    with np.load(tmp_path / "dots.npz") as file:
        assert file["names"].tolist() == ["dot"]
        assert file["pixels"].shape == (1, 64, 64)  # black: alpha is enough
        assert abs(file["pixels"].mean() / 255 - np.pi * 100 / 576) < 0.01


def test_another_licence_is_refused(tmp_path: Path) -> None:
    drawn = Set("dots", "MIT", "dots", "pretrain")
    package(tmp_path, drawn, {"dot": CIRCLE}, licence="GPL-3.0")
    with pytest.raises(ValueError, match=r"@iconify-json/dots states the licence 'GPL-3.0'"):
        render_set(tmp_path, tmp_path, drawn)


def test_drawings_are_fitted_and_centred(tmp_path: Path) -> None:
    drawn = Set("wide", "MIT", "wide", "pretrain")
    package(tmp_path, drawn, {})
    icons = tmp_path / "node_modules" / drawn.npm / "icons.json"
    body = '<rect width="40" height="20" fill="red"/>'
    icons.write_text(json.dumps({"icons": {"bar": {"body": body, "width": 40, "height": 20}}}))
    pixels = render(next(drawings(tmp_path, drawn)))
    assert pixels is not None
    assert pixels[32, 32].tolist() == [255, 0, 0, 255]
    assert (pixels[:16, :, 3] == 0).all()
    assert (pixels[17:47, :, 3] == 255).all()
    assert not is_black(pixels)


def test_icon_names_become_concepts() -> None:
    fox = Concept("fox", code="1F98A")
    known = {"fox": fox}
    assert icon_words("arrow-left-02-bold") == "arrow left"
    assert icon_words("square") == "square"
    assert icon_concept("fox-fill", known) is fox
    assert icon_concept("shopping_cart", known) == Concept("shopping cart")
    assert spoken("flag: Côte d\u2019Ivoire") == "flag of Côte d'Ivoire"


def test_emoji_are_found_by_code_name_and_country() -> None:
    fox, france = Concept("fox", code="1F98A"), Concept("flag of France", code="1F1EB-1F1F7")
    emoji = Emoji({"1F98A": fox, "1F1EB-1F1F7": france}, {"foxface": "1F98A"})
    faces, flags = Set("a", "MIT", "a", "pretrain", kind="emoji"), Set("b", "MIT", "b", "pretrain", kind="flag")
    assert emoji.of(faces, "fox-face") is emoji.of(faces, "1f98a-fe0f") is fox
    assert emoji.of(faces, "fox-face-dark-skin-tone") is None
    assert emoji.of(flags, "fr") is france
    assert emoji.of(flags, "fr-idf") is None


def test_mentions_of_held_out_concepts_are_detected() -> None:
    concepts = [Concept(f"thing {number}", code=f"{number:X}") for number in range(40)]
    held_out = next(concept for concept in concepts if concept.held_out)
    free = next(concept for concept in concepts if not concept.held_out)
    forbidden = Forbidden(concepts)
    assert forbidden(f"big-{held_out.name.replace(' ', '-')}-alt")
    assert not forbidden(free.name)
    assert not Concept("thing").held_out  # icons are held out by their names only
    captions = make_captions([Concept(free.name, (held_out.name, "stuff"), "some things", free.code)], forbidden)
    assert captions.texts == (free.name, "stuff", "some things", free.name.split()[-1])[: len(captions.texts)]


def test_rare_concepts_are_no_classes() -> None:
    cat, fox = Concept("cat"), Concept("fox", code="1F98A")
    assert frequent([(cat, "a"), (cat, "b"), (fox, "a"), (fox, "b")]) == {"fox"}
    assert frequent([(cat, "a"), (cat, "b"), (cat, "b"), (fox, "a"), (fox, "a")]) == {"cat"}


def test_captions_mean_all_that_they_fit() -> None:
    concepts = [Concept("red apple", ("fruit",), "food"), Concept("lemon", ("fruit", "red apple"), "food")]
    captions = make_captions(concepts, Forbidden([]))
    assert captions.texts == ("red apple", "lemon", "fruit", "food")
    assert captions.of == ((0, 2, 3), (1, 2, 3))
    assert captions.targets([0, 2], 2, torch.device("cpu")).tolist() == [[1, 0], [0.5, 0.5]]


def test_templates_hold_the_text() -> None:
    import random

    said = {in_template("apple", random.Random(seed)) for seed in range(200)}
    assert all("apple" in text and "{}" not in text for text in said)
    assert {"a photo of an apple.", "apple"} <= said


def test_views_keep_the_plain_drawing_at_strength_zero() -> None:
    drawing = torch.zeros(1, 4, 64, 64)
    drawing[:, :, 20:40, 20:40] = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    view = compose(drawing, torch.tensor([False]), 0.0, torch.Generator().manual_seed(0))
    assert view[0, :, 30, 30].tolist() == pytest.approx([1, 0, 0], abs=1e-4)
    assert view[0, :, 5, 5].tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_views_are_images_and_black_shapes_stay_visible() -> None:
    drawing = torch.zeros(64, 4, 64, 64)
    drawing[:, 3, 16:48, 16:48] = 1
    views = compose(drawing, torch.ones(64, dtype=torch.bool), 1.0, torch.Generator().manual_seed(0))
    assert views.shape == (64, 3, 64, 64)
    assert views.min() >= 0
    assert views.max() <= 1
    assert (views.flatten(2).std(dim=2).mean(dim=1) > 0.02).float().mean() > 0.95


def test_a_sparse_view_prefers_non_empty_patches() -> None:
    images = torch.zeros(200, 3, 64, 64)
    images[:, :, :, 32:] = torch.randn(200, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    glance = Glance()
    glance.choose(images, 0.25, torch.Generator().manual_seed(0))
    assert glance.kept is not None
    assert glance.kept.shape == (200, 16)
    assert all(len(set(row)) == 16 for row in glance.kept.tolist())
    assert (glance.kept % 8 >= 4).float().mean() > 0.8
    tokens = torch.randn(200, 65, 2)
    assert glance(tokens)[:, 1:].equal(tokens[:, 1:].gather(1, glance.kept[..., None].expand(-1, -1, 2)))
    glance.choose(images, 1.0, torch.Generator())
    assert glance(tokens) is tokens


def test_orthogonal_directions() -> None:
    matrix = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_reaches_a_minimum() -> None:
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([weight], lr=0.1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        (weight - target).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (weight - target).abs().max() < 0.02


def test_the_autoencoder_learns_and_sees_a_quarter() -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    seen: list[int] = []
    model.encoder.blocks[0].register_forward_hook(lambda block, args, out: seen.append(args[0].shape[1]))
    losses = []
    for _ in range(12):
        loss = model(images, torch.Generator().manual_seed(0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert set(seen) == {17}
    assert losses[-1] < 0.9 * losses[0]


def test_the_clip_starts_from_the_autoencoder() -> None:
    mae, clip = Autoencoder().encoder, Pretrainer(3, 2).clip
    start_from_mae(clip, mae.state_dict())
    clip.visual.proj = None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = mae.patch_embed(images) + mae.pos_embed[:, 1:]
        x = torch.cat([(mae.cls_token + mae.pos_embed[:, :1]).expand(2, -1, -1), x], dim=1)
        features = mae.norm(mae.blocks(x))[:, 1:].mean(dim=1)
        assert (clip.visual.eval()(images) - features).abs().max() < 0.01


def test_texts_are_encoded_as_open_clip_does() -> None:
    model = Pretrainer(3, 2).eval()
    tokenizer = load_backbone("embedded/clip").tokenizer
    assert tokenizer is not None
    ids = tokenizer(["a cat", "a picture of a dog"])
    with torch.no_grad():
        assert (model.texts(ids) - model.clip.encode_text(ids, normalize=True)).abs().max() < 1e-5
    assert isinstance(model.clip, CLIP)
    assert clip_towers(model.clip)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [Clock(1000, 10, level=0.5, step=step).rate for step in range(100)]
    assert rates[0] < rates[2]
    assert rates[3] == rates[40] == 1
    assert rates[60] > rates[80] > rates[99] >= 0


def test_without_a_level_part_the_rate_falls_from_the_start() -> None:
    rates = [Clock(1000, 10, step=step).rate for step in range(100)]
    assert rates[0] < rates[1] < rates[3] > rates[30] > rates[60] > rates[99] >= 0
    assert abs(rates[50] - 0.5) < 1e-9


def test_export_keeps_the_towers_alone(tmp_path: Path) -> None:
    model, mae = Pretrainer(3, 2), Autoencoder()
    torch.save({"model": model.state_dict()}, tmp_path / "clip.pt")
    torch.save({"model": mae.state_dict()}, tmp_path / "mae.pt")
    assert clip_state(tmp_path / "clip.pt").keys() == Pretrainer(4, 1).clip.state_dict().keys()
    assert mae_state(tmp_path / "mae.pt").keys() == mae.encoder.state_dict().keys()
    entry = write_weights(tmp_path / "mae.safetensors", mae_state(tmp_path / "mae.pt"))
    assert entry["bytes"] == (tmp_path / "mae.safetensors").stat().st_size
    with pytest.raises(ValueError, match=r"Not finite in half precision: x\."):
        write_weights(tmp_path / "x.safetensors", {"x": torch.tensor(1e6)})


def test_measures_count_right_answers() -> None:
    colours = np.zeros((3, 64, 64, 4), dtype=np.uint8)
    colours[..., 3] = 255
    colours[[0, 1, 2], :, :, [0, 1, 2]] = 255
    labels = torch.tensor([0, 1, 2])
    task = Task(
        "colours", ("red", "green", "blue"), {"a": Drawn(colours, labels), "b": Drawn(colours[::-1].copy(), labels)}
    )
    encode = lambda images: images[:, :, 32, 32]  # noqa: E731
    assert zero_shot(task, encode, torch.eye(3)) == {"a": (3, 3), "b": (1, 3)}
    assert nearest(task, encode, ["a"]) == (1, 3)
    assert probe(task, encode, ["a"]) == (1, 3)
