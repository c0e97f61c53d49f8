"""Where models are placed: what is known of devices and checkpoints, and the plan made from it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.config.schema import ModelConfig
from hcache.engines import devices
from hcache.engines.devices import (
    MIB,
    PROCESS,
    Device,
    core_shares,
    find_gpus,
    free_memory,
    visible_gpus,
)
from hcache.engines.memory import WINDOWS, checkpoint_memory
from hcache.engines.placement import GIB, Demand, Placement, place
from hcache.errors import ConfigError

LISTED = """\
0, GPU-aaaa1111-0000, 81559, 81070
1, GPU-bbbb2222-0000, 81559, 1000
2, GPU-bbbb3333-0000, 40960, 40960
"""


def gpus(*gib: int) -> list[Device]:
    return [Device(n, str(n), size * GIB, int(0.92 * size * GIB)) for n, size in enumerate(gib)]


def demand(model: str, gib: float, **more: int | float | None) -> Demand:
    return Demand(model, f"key of {model}", int(gib * GIB), GIB, **more)  # type: ignore[arg-type]


def seats(placement: Placement) -> list[tuple[str, str]]:
    return [(post.name, seat.model) for post in placement.posts for seat in post.seats]


def taken(placement: Placement) -> Counter[str]:
    """The shares given of each device."""
    sums: Counter[str] = Counter()
    for post in placement.posts:
        for device in post.group:
            sums.update({device.name: sum(seat.share for seat in post.seats)})
    return sums


# Devices


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, "012"),
        ("2,0", "20"),
        ("GPU-aaaa", "0"),
        ("GPU-bbbb", ""),  # two are called so
        ("1, 7,0", "1"),  # CUDA stops at the first that it does not know
        ("0,0", "0"),
        ("", ""),
        ("-1", ""),
    ],
)
def test_gpus_are_those_that_are_visible(visible: str | None, names: str) -> None:
    found = visible_gpus(LISTED, visible)
    assert [device.name for device in found] == list(names)
    assert [device.number for device in found] == list(range(len(found)))


def test_a_gpu_gives_what_is_free_and_keeps_a_part() -> None:
    whole, used, _ = visible_gpus(LISTED, None)
    assert whole.free == int(0.92 * 81559 * MIB)
    assert used.free == 1000 * MIB


@pytest.mark.parametrize(("asked", "found"), [(None, 3), (1, 1), (3, 3)])
def test_as_many_gpus_as_asked(
    asked: int | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "nvidia_smi", lambda: LISTED)
    assert len(find_gpus(asked)) == found


@pytest.mark.parametrize(("listed", "said"), [(LISTED, "3 can be seen"), ("", "0 can be seen")])
def test_fewer_gpus_than_asked_for(listed: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "nvidia_smi", lambda: listed)
    with pytest.raises(ConfigError, match=f"4 workers, a GPU each; {said}"):
        find_gpus(4)


@given(st.integers(1, 200), st.integers(1, 64))
def test_every_core_is_in_a_share(workers: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "own_cores", lambda: list(range(10, 10 + count)))
        shares = core_shares(workers, 100 * PROCESS)
    assert len(shares) == workers and all(share.cores for share in shares)
    assert {core for share in shares for core in share.cores} == set(range(10, 10 + count))
    if workers <= count:
        assert sum(len(share.cores) for share in shares) == count
    assert all(share.free == max(0, share.memory - PROCESS) for share in shares)


def test_memory_is_bounded_by_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(devices, "CONTROL_GROUP", tmp_path)
    assert free_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 3000


# Checkpoints


def checkpoint(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, size in (("model-1.safetensors", 600), ("model-2.safetensors", 400)):
        (folder / name).write_bytes(b"x" * size)
    (folder / "consolidated.safetensors").write_bytes(b"x" * 1000)
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    return folder


SHAPE = {
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "num_hidden_layers": 3,
}
TOKEN = 2 * 3 * 2 * 8  # numbers that are kept of a token: keys and values, layers, heads, dimension


@pytest.mark.parametrize(
    ("config", "dtype", "weights", "cache", "heads"),
    [
        ({**SHAPE, "dtype": "bfloat16"}, "bfloat16", 1000, TOKEN * 2, 8),
        ({**SHAPE, "torch_dtype": "bfloat16"}, "float32", 2000, TOKEN * 4, 8),
        ({**SHAPE, "dtype": "float32"}, "float16", 500, TOKEN * 2, 8),
        (SHAPE, "float32", 1000, TOKEN * 4, 8),  # it does not say what it is stored in
        ({**SHAPE, "dtype": "bfloat16", "quantization_config": {}}, "float32", 1000, TOKEN * 4, 8),
        ({"dtype": "bfloat16", "text_config": SHAPE}, "bfloat16", 1000, TOKEN * 2, 8),
        ({**SHAPE, "head_dim": 16}, "bfloat16", 1000, 2 * TOKEN * 2, 8),
    ],
)
def test_what_a_checkpoint_takes(
    config: dict[str, object], dtype: str, weights: int, cache: int, heads: int, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, **config)
    model = ModelConfig(path=str(folder), dtype=dtype, max_model_len=100)
    assert checkpoint_memory(model) == (weights, cache * 100 * WINDOWS, heads)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"num_attention_heads": 0, "hidden_size": 1}'])
def test_a_configuration_that_says_little_leaves_room_for_a_cache(
    text: str, tmp_path: Path
) -> None:
    (checkpoint(tmp_path) / "config.json").write_text(text, encoding="utf-8")
    assert checkpoint_memory(ModelConfig(path=str(tmp_path))) == (1000, 300, 0)


# The plan


def test_small_models_stand_on_every_device() -> None:
    placement = place([demand("a", 1), demand("b", 2)], gpus(80, 80))
    assert sorted(seats(placement)) == [
        ("GPU 0", "a"), ("GPU 0", "b"), ("GPU 1", "a"), ("GPU 1", "b"),
    ]  # fmt: skip
    assert not placement.swap and placement.replicas == 2


def test_two_models_on_one_device_share_it() -> None:
    (post,) = place([demand("a", 10), demand("b", 30)], gpus(80)).posts
    shares = {seat.model: seat.share for seat in post.seats}
    assert shares["a"] * 80 > 11 and shares["b"] * 80 > 31
    assert sum(shares.values()) == pytest.approx(0.92, abs=0.003)


def test_a_model_that_fits_no_device_is_split() -> None:
    placement = place([demand("large", 140, heads=64), demand("small", 1)], gpus(80, 80, 80, 80))
    large = [("GPU 0,1", "large"), ("GPU 2,3", "large")]
    small = [(f"GPU {number}", "small") for number in range(4)]
    assert sorted(seats(placement)) == sorted(large + small)
    assert all(share <= 0.92 for share in taken(placement).values())


def test_a_model_is_split_over_a_number_that_divides_its_heads() -> None:
    with pytest.raises(ConfigError, match=r"models\.odd: needs 141\.0 GiB"):
        place([demand("odd", 140, heads=25)], gpus(80, 80, 80, 80))


def test_models_that_do_not_fit_together_stand_apart_if_they_can() -> None:
    placement = place([demand("a", 50), demand("b", 50)], gpus(80, 80))
    assert len(seats(placement)) == 2 and not placement.swap
    assert {model for _, model in seats(placement)} == {"a", "b"}


def test_models_that_cannot_are_swapped_and_each_has_all_devices() -> None:
    placement = place([demand("a", 50), demand("b", 50), demand("c", 50)], gpus(80, 80))
    assert placement.swap and placement.replicas == 2
    assert Counter(model for _, model in seats(placement)) == Counter(a=2, b=2, c=2)
    assert all(0.919 <= seat.share <= 0.92 for post in placement.posts for seat in post.seats)


def test_shares_that_are_set_are_kept() -> None:
    (post,) = place([demand("a", 1, share=0.3), demand("b", 1)], gpus(80)).posts
    shares = {seat.model: seat.share for seat in post.seats}
    assert shares["a"] == 0.3 and shares["b"] == pytest.approx(0.62, abs=0.002)


def test_a_split_that_is_set_is_kept() -> None:
    assert seats(place([demand("a", 1, devices=2)], gpus(80, 80, 80))) == [("GPU 0,1", "a")]
    with pytest.raises(ConfigError, match="split over 4 devices; 3 can be used"):
        place([demand("a", 1, devices=4)], gpus(80, 80, 80))


def test_a_model_is_not_split_over_cores() -> None:
    shares = [Device(n, str(n), 4 * GIB, 3 * GIB, (n,)) for n in range(4)]
    with pytest.raises(ConfigError, match=r"4 × share of the cores with 3\.0 GiB free"):
        place([demand("a", 5)], shares)


@given(
    st.lists(
        st.tuples(st.integers(1, 200), st.sampled_from([0, 7, 8, 32, 64])), min_size=1, max_size=5
    ),
    st.lists(st.sampled_from([16, 24, 40, 80]), min_size=1, max_size=8),
    st.booleans(),
)
def test_plans_keep_to_the_memory(
    models: list[tuple[int, int]], sizes: list[int], swap: bool
) -> None:
    wanted = [demand(f"m{n}", gib, heads=heads) for n, (gib, heads) in enumerate(models)]
    try:
        placement = place(wanted, gpus(*sizes), swap)
    except ConfigError:
        # One does not fit alone on any number of the largest that it can be split over.
        assert any(
            all(
                each.heads % count or each.split / count + each.each > 0.92 * max(sizes) * GIB
                for count in (1, 2, 4, 8)
                if count <= len(sizes) and sum(size == max(sizes) for size in sizes) >= count
            )
            for each in wanted
        )
        return
    by_model = {each.model: each for each in wanted}
    assert {model for _, model in seats(placement)} == by_model.keys()
    assert placement.swap or not swap
    for post in placement.posts:
        for seat in post.seats:
            need = by_model[seat.model].split / len(post.group) + GIB
            assert all(
                seat.share * device.memory >= need - 0.001 * device.memory for device in post.group
            )
        assert len({seat.key for seat in post.seats}) == len(post.seats)
        assert not placement.swap or len(post.seats) == 1
    if not placement.swap:
        assert all(share <= 0.92 + 1e-9 for share in taken(placement).values())


def test_nothing_of_the_environment_is_left_behind() -> None:
    before = dict(os.environ)
    from hcache.engines.hosts import _environment

    with _environment({"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "1"}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert dict(os.environ) == before
