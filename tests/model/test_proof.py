from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import picture
from wingbar.errors import ModelError
from wingbar.images import Preprocessing
from wingbar.index.index import Index
from wingbar.model import arrays, proof
from wingbar.model.model import GENERAL, PROOF, Model, preprocessing_record, with_record

SIDE, DIM, BITS = 16, 24, 40
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def small_model(
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    order: tuple[int, ...] = (0, 1, 2),
    rounding: float = 0.0,
    dynamic: bool = False,
) -> Model:
    """A network of one layer on the means of a grid of 4 x 4 patches, with codes of its own.

    `order` is that of the channels, `rounding` the step to which the feature's weights are rounded;
    `dynamic` makes the layer one of 8 bits whose ranges are taken from each batch.
    """
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((48, DIM)).astype(np.float32)
    if rounding:
        weights = (weights / rounding).round() * np.float32(rounding)
    constants = {
        "order": np.array(order),
        "mean": np.array(mean, np.float32),
        "std": np.array(std, np.float32),
        "weights": weights,
        "codes": rng.standard_normal((DIM, BITS)).astype(np.float32),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Cast", ["pixels"], ["float"], {"to": TensorProto.FLOAT}),
        ("Gather", ["float", "order"], ["ordered"], {"axis": 3}),
        ("Sub", ["ordered", "mean"], ["centred"], {}),
        ("Div", ["centred", "std"], ["scaled"], {}),
        ("Transpose", ["scaled"], ["planes"], {"perm": [0, 3, 1, 2]}),
        ("AveragePool", ["planes"], ["grid"], {"kernel_shape": [4, 4], "strides": [4, 4]}),
        ("Flatten", ["grid"], ["flat"], {}),
    ]
    if dynamic:
        step = float(np.abs(weights).max()) / 127
        constants["weights"] = (weights / step).round().astype(np.int8)
        constants["step"] = np.array(step, np.float32)
        steps += [
            ("DynamicQuantizeLinear", ["flat"], ["q", "scale", "zero"], {}),
            ("MatMulInteger", ["q", "weights", "zero"], ["sums"], {}),
            ("Cast", ["sums"], ["sums.float"], {"to": TensorProto.FLOAT}),
            ("Mul", ["sums.float", "scale"], ["half"], {}),
            ("Mul", ["half", "step"], ["made"], {}),
        ]
    else:
        steps.append(("MatMul", ["flat", "weights"], ["made"], {}))
    steps += [
        ("LpNormalization", ["made"], ["feature"], {"axis": 1, "p": 2}),
        ("MatMul", ["feature", "codes"], ["logits"], {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **more) for kind, ins, outs, more in steps],
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", DIM]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", BITS]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    record = {
        "name": "small",
        "method": "dlbhc",
        "dim": DIM,
        "bits": BITS,
        "fine": "ties",
        "preparation": preprocessing_record(Preprocessing(size=SIDE)),
    }
    return Model(with_record({"model.onnx": network.SerializeToString()}, record))


def elsewhere(made: Model, there: Model) -> Model:
    """The model `made` on a machine that computes what `there` does."""
    return made.altered({"model.onnx": there.files["model.onnx"]})


@pytest.fixture(scope="module")
def made() -> Model:
    return proof.proven(small_model())


def test_pictures_are_small_and_tell_channels_apart() -> None:
    drawn = proof.draw_pictures()
    assert drawn.shape == (8, 48, 64, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, proof.draw_pictures())
    means = drawn.mean((1, 2))
    assert np.ptp(means, axis=1).min() > 10  # of three channels of a picture
    assert drawn.std((1, 2)).min() > 5


def test_a_proof_holds_what_was_computed_and_passes_where_it_was_made(made: Model) -> None:
    found = proof.of(made)
    assert found is not None
    single = [small_model().encode([one]) for one in found.pictures]
    np.testing.assert_array_equal(found.outputs[:, :DIM], [one.features[0] for one in single])
    outcome = proof.examine(made)
    assert outcome is not None
    assert outcome.passes
    assert outcome.bits > 300
    assert (made.batch, made.record["format"]) == (16, 1)
    assert proof.problem(made) is None
    assert proof.examine(small_model()) is None  # made before there were proofs
    assert proof.problem(small_model()) is None


def test_the_built_in_model_is_proven() -> None:
    model = Model.load()
    assert (GENERAL / PROOF).stat().st_size < 130_000
    outcome = proof.examine(model)
    assert outcome is not None
    assert outcome.passes


@pytest.mark.parametrize(
    ("there", "wrong"),
    [
        (small_model(mean=(0.0, 0.0, 0.0)), True),
        (small_model(std=(127.5, 127.5, 127.5)), True),
        (small_model(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)), True),
        (small_model(order=(2, 1, 0)), True),
        (small_model(rounding=0.02), True),
        (small_model(rounding=1e-6), False),
    ],
    ids=["mean", "std", "half", "BGR", "rounding beyond tolerance", "rounding within tolerance"],
)
def test_a_machine_that_computes_otherwise_is_told_so(
    made: Model, there: Model, wrong: bool
) -> None:
    problem = proof.problem(elsewhere(made, there))
    if not wrong:
        assert problem is None
        return
    assert problem is not None
    assert problem.isprintable()
    assert "this machine computes other features with small" in problem
    assert "clear bits are others" in problem


def test_every_clear_bit_counts_and_near_ones_do_not(made: Model) -> None:
    """Features within tolerance and one logit moved, by hand."""
    found = proof.of(made)
    assert found is not None
    raw = found.outputs.copy()
    logits = raw[:, DIM:]  # a view
    place = np.unravel_index(np.abs(logits).argmin(), logits.shape)
    for value, passes in [(0.5, False), (1e-9, True)]:
        logits[place] = value
        expected = arrays.to_bytes({"pictures": found.pictures, "outputs": raw})
        outcome = proof.examine(made.altered({PROOF: expected}))
        logits[place] = -logits[place]  # and the other sign: one of the two is not what is computed
        other = proof.examine(
            made.altered({PROOF: arrays.to_bytes({**found._asdict(), "outputs": raw})})
        )
        assert outcome is not None
        assert other is not None
        assert (outcome.passes and other.passes) == passes


def test_the_codes_of_a_fitted_model_are_proven_too(made: Model) -> None:
    record = {key: value for key, value in made.record.items() if key != "bits"}
    files = {name: made.files[name] for name in ("model.onnx", PROOF)}
    found = proof.of(made)
    assert found is not None
    features = arrays.to_bytes({**found._asdict(), "outputs": found.outputs[:, :DIM]})
    free = Model(with_record({**files, PROOF: features}, {**record, "method": "itq"}))
    assert proof.examine(free) == proof.Outcome(0.0, 0, 0)
    sample = np.concatenate([free.run([np.asarray(picture(i, (SIDE, SIDE)))]) for i in range(20)])
    fitted = free.fitted(sample, 12, seed=0)
    assert fitted.files[PROOF] == features
    outcome = proof.examine(fitted)
    assert outcome is not None
    assert (outcome.passes, outcome.bits) == (True, 8 * 12)
    other = proof.examine(elsewhere(fitted, small_model(order=(2, 1, 0))))
    assert other is not None
    assert other.wrong > 0


def test_a_network_whose_ranges_come_from_the_batch_is_run_one_by_one() -> None:
    plain = small_model(dynamic=True)
    pixels = [np.asarray(one)[:SIDE, :SIDE] for one in proof.draw_pictures()]
    together = plain.run(pixels)[:, :DIM]
    alone = np.concatenate([plain.run([one]) for one in pixels])[:, :DIM]
    assert np.abs(together - alone).max() > proof.TOLERANCE  # bits flip with company
    model = proof.proven(plain)
    assert (model.batch, model.record["format"]) == (1, 2)  # 0.1.0 would run whole batches
    np.testing.assert_array_equal(model.run(pixels)[:, :DIM], alone)
    assert proof.problem(model) is None
    # a machine that ignores it, as the version before would, is caught
    record = {key: value for key, value in model.record.items() if key != "batch"}
    careless = Model(
        with_record({name: model.files[name] for name in ("model.onnx", PROOF)}, record)
    )
    assert careless.batch == 16
    assert proof.problem(careless) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda found: b"no zip file",
        lambda found: arrays.to_bytes({"pictures": found.pictures}),
        lambda found: arrays.to_bytes({**found._asdict(), "outputs": found.outputs[:5]}),
        lambda found: arrays.to_bytes({**found._asdict(), "outputs": found.outputs * np.nan}),
        lambda found: arrays.to_bytes({**found._asdict(), "pictures": found.pictures[..., :2]}),
        lambda found: arrays.to_bytes(
            {**found._asdict(), "pictures": found.pictures.astype("<f4")}
        ),
    ],
)
def test_a_damaged_proof_is_one_line(made: Model, change: Callable[[Any], bytes]) -> None:
    with pytest.raises(ModelError, match=r"proof\.npz cannot be read") as refused:
        proof.examine(made.altered({PROOF: change(proof.of(made))}))
    assert str(refused.value).isprintable()


def test_a_proof_of_another_network_does_not_fit(made: Model) -> None:
    found = proof.of(made)
    assert found is not None
    short = arrays.to_bytes({**found._asdict(), "outputs": found.outputs[:, :9]})
    problem = proof.problem(made.altered({PROOF: short}))
    assert problem is not None
    assert "differ by inf" in problem


# -- indexes


def test_a_new_index_goes_by_the_machine_that_makes_it(made: Model, tmp_path: Path) -> None:
    there = elsewhere(made, small_model(order=(2, 1, 0)))
    with Index.create(tmp_path / "a.wb", there) as index:
        report = index.add([picture(1), picture(2)])
        assert "the index goes by what this machine computes" in report.notes[0]
        assert index.model.fingerprint != there.fingerprint
        assert proof.problem(index.model) is None
        assert index.add([picture(3)]).notes == ()  # it is the same machine
        assert index.search(picture(1), 1)[0].distance == 0
    with Index.create(tmp_path / "b.wb", made) as index:
        index.add([picture(1)])
        assert index.model.fingerprint == made.fingerprint  # the proof is the model's own


def test_a_second_machine_adds_nothing_silently(made: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path, made) as index:
        index.add([picture(1), picture(2)])
        with index._store.writing():  # the same index, seen from another machine
            index._store.set_model(elsewhere(made, small_model(order=(2, 1, 0))).files)
    with Index.open(path) as index:
        assert index.add([picture(1)]).unchanged == 1  # nothing to encode
        with pytest.raises(ModelError, match=r"a\.wb was not changed: this machine computes other"):
            index.add([picture(3)])
        assert len(index) == 2
        report = index.add([picture(3)], unproven=True)
        assert report.added == 1
        assert report.notes[0].endswith("they were added all the same")


def test_a_model_without_a_proof_is_indexed_as_ever(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", small_model()) as index:
        assert index.add([picture(1)]).notes == ()
        assert PROOF not in index.model.files
        assert index.model.fingerprint == small_model().fingerprint
