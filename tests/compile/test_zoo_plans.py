"""The arena of every network of the zoo stays within five percent of what is alive at once."""

import pytest

import homespun as hs

NETWORKS = {
    "mobilenet_v1": {},
    "mobilenet_v2": {},
    "efficientnet_lite0": {},
    "efficientnet_lite4": {"image_size": 128},
}


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_arena_is_close_to_its_lower_bound(name: str, batch: int, weights: str) -> None:
    model = getattr(hs.zoo, name)(classes=10, **NETWORKS[name])
    memory = hs.Predictor(model, batch=batch, weights=weights).memory
    assert memory.lower_bound <= memory.arena <= 1.05 * memory.lower_bound
