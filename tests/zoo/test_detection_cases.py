"""Finding things in cases worked out by hand: the loss, decoding, suppression, and average precision, at their edges.

Where all logits are 0, every sigmoid is a half, every cross entropy ln 2, and every box its anchor in the middle of its
cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Array, GraphBuilder
from homespun.training.detection import Detections, MeanAveragePrecision, decode, non_maximum_suppression

LN2 = float(np.log(2))
NOTHING = (-1, 9, 9, 9, 9)


def loss_of(
    objects: Sequence[Sequence[Sequence[float]]], anchors: Sequence[float], classes: int = 1, ignore: float = 0.7
) -> tuple[float, Array]:
    """(loss, gradient (N, 2, 2, boxes, 5 + classes)) of logits that are all 0, on one map of 2x2 cells."""
    boxes, count = len(anchors) // 2, len(objects)
    build = GraphBuilder("map")
    build.input("unused", (1,))
    maps = np.zeros((count, 2, 2, boxes * (5 + classes)), np.float32)
    graph = build.build(build.parameter("p", maps))
    loss = hs.losses.Yolo(anchors, boxes=boxes, ignore=ignore)
    trainer = hs.Trainer(graph, loss, hs.optim.SGD(0.1), batch=count)
    unused, given = np.zeros((count, 1), np.float32), np.array(objects, np.float32)
    gradient = trainer.compute_gradients(unused, given)["p"]
    return trainer.step(unused, given).loss, gradient.reshape(count, 2, 2, boxes, 5 + classes)


def test_where_nothing_is_only_objectness_counts() -> None:
    loss, gradient = loss_of([[NOTHING], [NOTHING]], [0.5, 0.5])
    assert loss == pytest.approx(4 * LN2)
    np.testing.assert_allclose(gradient[..., 4], 0.25)  # a half, shared by two images
    assert not np.delete(gradient, 4, axis=-1).any()


def test_one_object_that_fits_its_cell_and_anchor() -> None:
    """Weight 2 - 0.25 for its place, which costs ln 2 each way, none for its size; objectness, class; 3 empty cells."""
    one = (0, 0.25, 0.25, 0.5, 0.5)
    loss, gradient = loss_of([[one]], [0.5, 0.5])
    assert loss == pytest.approx(1.75 * 2 * LN2 + 2 * LN2 + 3 * LN2)
    np.testing.assert_allclose(gradient[0, 0, 0, 0], [0, 0, 0, 0, -0.5, -0.5], atol=1e-7)
    mean, _ = loss_of([[one, NOTHING], [NOTHING, NOTHING]], [0.5, 0.5])
    assert mean == pytest.approx((loss + 4 * LN2) / 2)


@pytest.mark.parametrize(("ignore", "empty"), [(0.25, 3), (0.2, 0)])
def test_predictions_that_overlap_more_than_so_much_are_ignored(ignore: float, empty: int) -> None:
    """An object as large as the image is seen from the cell behind its centre; each box covers exactly a quarter."""
    loss, gradient = loss_of([[(0, 0.5, 0.5, 1, 1)]], [0.5, 0.5], ignore=ignore)
    assert loss == pytest.approx(2 * LN2 + LN2**2 + 2 * LN2 + empty * LN2)
    np.testing.assert_allclose(gradient[0, 1, 1, 0], [0.5, 0.5, -LN2, -LN2, -0.5, -0.5], rtol=1e-6)
    assert np.count_nonzero(gradient[0, ..., 4]) == empty + 1


def test_of_two_objects_in_one_place_the_later_counts() -> None:
    objects = [(0, 0.25, 0.25, 0.5, 0.5), (1, 0.25, 0.25, 0.5, 0.5)]
    _, gradient = loss_of([objects], [0.5, 0.5], classes=2)
    np.testing.assert_allclose(gradient[0, 0, 0, 0, 5:], [0.5, -0.5])
    _, gradient = loss_of([objects[::-1]], [0.5, 0.5], classes=2)
    np.testing.assert_allclose(gradient[0, 0, 0, 0, 5:], [-0.5, 0.5])


def test_of_two_anchors_that_fit_alike_the_first_is_responsible() -> None:
    _, gradient = loss_of([[(0, 0.25, 0.25, 0.5, 0.5)]], [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(gradient[0, 0, 0, :, 4], [-0.5, 0.0])  # the other covers the object, and is ignored


@pytest.mark.parametrize(("at", "cell"), [((0.0, 0.0), (0, 0)), ((1.0, 1.0), (1, 1)), ((1.0, 0.0), (0, 1))])
def test_objects_on_the_border_belong_to_the_cell_inside(at: tuple[float, float], cell: tuple[int, int]) -> None:
    loss, gradient = loss_of([[(0, *at, 0.5, 0.5)]], [0.5, 0.5])
    assert np.isfinite(loss)
    assert [tuple(c) for c in np.argwhere(gradient[0, ..., 0, 4] < 0)] == [cell]


def test_maps_of_zeros_are_anchors_in_the_middle_of_cells() -> None:
    boxes, scores = decode([np.zeros((1, 1, 2, 14), np.float32)], [0.25, 0.5, 0.75, 1.0], boxes=2)
    np.testing.assert_allclose(
        boxes[0], [[0.25, 0.5, 0.25, 0.5], [0.25, 0.5, 0.75, 1], [0.75, 0.5, 0.25, 0.5], [0.75, 0.5, 0.75, 1]]
    )
    np.testing.assert_allclose(scores, np.full((1, 4, 2), 0.25))


def test_suppression_where_there_is_nothing_or_no_size() -> None:
    assert non_maximum_suppression(np.zeros((0, 4)), np.zeros((0, 3))).boxes.shape == (0, 4)
    points = non_maximum_suppression(np.full((2, 4), [0.5, 0.5, 0, 0]), np.array([[0.9], [0.8]]))
    np.testing.assert_allclose(points.scores, [0.9, 0.8])


def test_suppression_of_ties() -> None:
    """The left half of a box overlaps it by exactly a half, which is not more than a half."""
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.375, 0.5, 0.25, 0.5]], np.float32)
    scores = np.array([[0.75], [0.75]], np.float32)
    assert len(non_maximum_suppression(boxes, scores, overlap=0.5).scores) == 2
    kept = non_maximum_suppression(boxes, scores, overlap=0.49, least_score=0.75)
    np.testing.assert_array_equal(kept.boxes, boxes[:1])
    np.testing.assert_array_equal(non_maximum_suppression(boxes, scores, overlap=0.5, most=1).boxes, boxes[:1])


def test_what_is_suppressed_suppresses_nothing_itself() -> None:
    """Three in a row, each over its neighbour by a third: the middle one goes, and so the last one stays."""
    boxes = np.array([[0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]])
    kept = non_maximum_suppression(boxes, np.array([[0.9], [0.8], [0.7]]), overlap=0.3)
    np.testing.assert_allclose(kept.scores, [0.9, 0.7])


A, B, C = (0.2, 0.2, 0.2, 0.2), (0.7, 0.7, 0.2, 0.2), (0.5, 0.2, 0.2, 0.2)


def seen(*found: tuple[tuple[float, ...], float, int]) -> Detections:
    boxes = np.array([b for b, _, _ in found], np.float64).reshape(-1, 4)
    return Detections(boxes, np.array([s for _, s, _ in found]), np.array([c for _, _, c in found], np.int64))


def precision_of(
    images: Sequence[Detections], objects: Sequence[Sequence[Sequence[float]]], overlap: object = 0.5
) -> float:
    metric = MeanAveragePrecision(overlap)  # type: ignore[arg-type]
    for image, truths in zip(images, objects, strict=True):  # image by image, as an evaluation gives them
        metric.update([image], np.array([truths], np.float64))
    return metric.result()["mean_average_precision"]


def test_detections_of_all_images_stand_in_one_row() -> None:
    """Right, wrong, right, twice the same, right: three objects."""
    first = seen((C, 0.8, 0), (A, 0.7, 0), (B, 0.5, 0))
    second = seen((A, 0.9, 0), (A, 0.6, 0))
    found = precision_of([first, second], [[(0, *A), (0, *B)], [(0, *A), NOTHING]])
    assert found == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)


def test_precision_is_the_best_at_that_or_a_higher_recall() -> None:
    assert precision_of([seen((C, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))], [[(0, *A), (0, *B)]]) == pytest.approx(2 / 3)


def test_only_classes_that_occur_count() -> None:
    assert precision_of([seen()], [[NOTHING]]) == 0.0
    assert precision_of([seen((A, 0.9, 0), (A, 0.9, 7))], [[(0, *A)]]) == 1.0
    assert precision_of([seen((A, 0.9, 1))], [[(0, *A)]]) == 0.0
    assert precision_of([seen((A, 0.9, 0))], [[(0, *A), (1, *B)]]) == 0.5


def test_overlap_that_is_just_enough_and_means_over_overlaps() -> None:
    half = seen(((0.375, 0.5, 0.25, 0.5), 0.9, 0))
    whole = [[(0, 0.5, 0.5, 0.5, 0.5)]]
    assert precision_of([half], whole, 0.5) == 1.0
    assert precision_of([half], whole, 0.51) == 0.0
    assert precision_of([half], whole, [0.25, 0.5, 0.75, 0.9]) == 0.5


def test_an_object_is_found_once_and_the_next_best_after_it() -> None:
    near = (0.25, 0.2, 0.2, 0.2)  # overlaps A by 0.6
    assert precision_of([seen((A, 0.9, 0), (A, 0.8, 0))], [[(0, *A), (0, *near)]]) == 1.0
    assert precision_of([seen((A, 0.9, 0), (A, 0.8, 0))], [[(0, *A), (0, *B)]]) == 0.5


def test_detections_that_are_equally_sure_stand_in_the_order_of_their_images() -> None:
    right, wrong = seen((A, 0.5, 0)), seen((C, 0.5, 0))
    objects = [[(0, *A)], [NOTHING]]
    assert precision_of([right, wrong], objects) == 1.0
    assert precision_of([wrong, right], objects[::-1]) == 0.5
