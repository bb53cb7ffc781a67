"""Calibrated confidence: its arithmetic against scikit-learn, the file's checks, and what HTTP tells of it."""

import json
import math
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.isotonic import IsotonicRegression

from loadtest.store.stores import files_of
from service.adapters.store import Store
from service.calibration import FILE, Calibration, CalibrationErrors, Covered, log_odds, read_calibration, sigmoid
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import Running, png, serving
from tests.test_batch import batch
from tests.test_http_edge import QUESTION, ask, assert_error
from tests.test_streaming import events

CURVE = (
    Covered(threshold=0.9, coverage=0.5, risk=0.02),
    Covered(threshold=0.6, coverage=0.8, risk=0.1),
    Covered(threshold=0.1, coverage=1.0, risk=0.2),
)
FIGURES = CalibrationErrors(ece=0.1, brier=0.2)


def made(**fields: Any) -> Calibration:
    given_: dict[str, Any] = {"method": "platt", "curve": CURVE, "rows": 100, "images": 50, "precision": "int4"}
    given_ |= {"before": FIGURES, "after": FIGURES, "made": "2026-01-01T00:00:00+00:00", "trainer": "manylens 0"}
    return Calibration(**given_ | fields)


@given(st.floats(0, 1))
def test_platt_is_the_logistic_function_of_log_odds(confidence: float) -> None:
    assert made()(confidence) == pytest.approx(confidence, abs=2e-6)  # as it is fitted to nothing
    assert made(slope=0.5, intercept=-1)(confidence) == pytest.approx(sigmoid(0.5 * log_odds(confidence) - 1))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40), st.floats(0, 1))
def test_isotonic_is_what_scikit_learn_predicts(pairs: list[tuple[float, bool]], confidence: float) -> None:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(*map(np.array, zip(*pairs, strict=True)))
    steps = tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    expected = float(model.predict([confidence])[0])
    assert made(method="isotonic", steps=steps)(confidence) == pytest.approx(expected, abs=1e-6)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["platt", "isotonic"]))
def test_a_surer_answer_stays_the_surer_one(one: float, other: float, method: str) -> None:
    found = made(method=method, slope=0.3, intercept=2, steps=((0.2, 0.0), (0.4, 0.4), (0.9, 0.9)))
    low, high = sorted((one, other))
    assert 0 <= found(low) <= found(high) <= 1


@pytest.mark.parametrize(
    ("below", "risk"), [(1.0, None), (0.95, None), (0.9, 0.02), (0.7, 0.02), (0.6, 0.1), (0.11, 0.1), (0.0, 0.2)]
)
def test_the_error_at_a_threshold_is_that_of_the_answers_at_or_above_it(below: float, risk: float | None) -> None:
    point = made().at(below)
    assert (point and point.risk) == risk


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "isotonic"},
        {"method": "isotonic", "steps": ((0.5, 0.5), (0.2, 0.6))},
        {"method": "isotonic", "steps": ((0.2, 0.6), (0.5, 0.5))},
        {"slope": -1.0},
        {"slope": math.inf},
        {"curve": ()},
        {"curve": CURVE[::-1]},
        {"curve": ({"threshold": 2, "coverage": 0, "risk": 0},)},
    ],
)
def test_what_is_no_calibration_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(**fields)


def test_a_file_is_read_back_and_one_of_a_later_format_is_passed_over(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    (tmp_path / FILE).write_text(made(slope=0.5).model_dump_json())
    assert read_calibration(tmp_path) == made(slope=0.5)
    (tmp_path / FILE).write_text(json.dumps({"format": 2, "what": "nobody knows"}))
    assert read_calibration(tmp_path) is None
    added = json.loads(made().model_dump_json()) | {"added": "by a later trainer"}
    (tmp_path / FILE).write_text(json.dumps(added))
    assert read_calibration(tmp_path) == made()
    for broken in (b"[]", b"{", b"\xff", b'{"format": 1}', b" " * 2_000_000):
        (tmp_path / FILE).write_bytes(broken)
        with pytest.raises(ValueError, match=r"."):
            read_calibration(tmp_path)


@pytest.fixture
async def calibrated(fake_adapters: Path, tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service over the fake engine: `digits` has a calibration that halves log-odds, `shapes` none."""
    for name in ("digits", "shapes"):
        files = {file: content for file, content in files_of(Store(fake_adapters).stable(name)).items() if file != FILE}
        if name == "digits":
            files[FILE] = made(slope=0.5).model_dump_json().encode()
        Store(tmp_path).publish(name, files)
    async with serving(Settings(adapters=tmp_path), FakeEngine()) as running:
        yield running


async def test_an_answer_has_the_models_confidence_and_the_calibrated_one(calibrated: Running) -> None:
    body = (await ask(calibrated, adapter="digits")).raise_for_status().json()
    assert body["calibrated_confidence"] == pytest.approx(made(slope=0.5)(body["confidence"]), abs=1e-4)
    assert body["calibrated_confidence"] != pytest.approx(body["confidence"], abs=1e-4)
    assert body["abstained"] is body["expected_error"] is body["expected_coverage"] is None
    for adapter in ("shapes", None):
        assert (await ask(calibrated, adapter=adapter)).json()["calibrated_confidence"] is None


async def test_adapters_tell_whether_a_version_is_calibrated_once_it_was_asked(calibrated: Running) -> None:
    async def told() -> dict[str, bool | None]:
        listed = (await calibrated.client.get("/v1/adapters")).json()["adapters"]
        for each in listed:
            (version,) = (await calibrated.client.get(f"/v1/adapters/{each['name']}")).json()["versions"]
            assert version["calibrated"] is each["calibrated"]
        return {each["name"]: each["calibrated"] for each in listed}

    assert await told() == {"digits": None, "shapes": None}
    for adapter in ("digits", "shapes"):
        (await ask(calibrated, adapter=adapter)).raise_for_status()
    assert await told() == {"digits": True, "shapes": False}


async def test_below_the_threshold_an_answer_is_marked_and_given_all_the_same(calibrated: Running) -> None:
    sure = (await ask(calibrated, adapter="digits")).json()
    for below in (0.0, sure["calibrated_confidence"] / 2, 0.95, 1.0):
        body = (await ask(calibrated, adapter="digits", abstain_below=below)).raise_for_status().json()
        assert body["answer"] == sure["answer"]
        assert body["abstained"] is (sure["calibrated_confidence"] < below)
        point = made().at(below)
        assert (body["expected_error"], body["expected_coverage"]) == (
            (point.risk, point.coverage) if point else (None, None)
        )


async def test_forms_batches_and_streams_take_it_too(calibrated: Running) -> None:
    fields = {"question": QUESTION, "adapter": "digits", "abstain_below": 0.7}
    alone = (await ask(calibrated, **fields)).json()
    parts = ("answer", "confidence", "calibrated_confidence", "abstained", "expected_error", "expected_coverage")
    expected = {part: alone[part] for part in parts}
    assert expected["abstained"] is not None
    form = {name: str(value) for name, value in fields.items()}
    answers = [(await calibrated.client.post("/v1/vqa", data=form, files={"image": png()})).raise_for_status().json()]
    answers += (await batch(calibrated, fields)).raise_for_status().json()["results"]
    streamed = await ask(calibrated, **fields, stream=True)
    answers.append(events(streamed.text)[-2][1])
    for body in answers:
        assert {part: body[part] for part in parts} == expected


@pytest.mark.parametrize("adapter", ["shapes", None])
async def test_a_threshold_where_nothing_is_calibrated_is_refused_by_name(
    calibrated: Running, adapter: str | None
) -> None:
    response = await ask(calibrated, adapter=adapter, abstain_below=0.5)
    message = assert_error(response, 422, "not_calibrated")
    assert ("shapes@" in message) == (adapter == "shapes")
    assert "trainer calibrate" in message
    results = (await batch(calibrated, {"question": "?", "adapter": adapter, "abstain_below": 0.5}, "?")).json()[
        "results"
    ]
    assert ["error" in result for result in results] == [True, False]  # the others are answered


@pytest.mark.parametrize("below", [-0.1, 1.1, "x"])
async def test_a_threshold_is_a_share(calibrated: Running, below: object) -> None:
    assert_error(await ask(calibrated, adapter="digits", abstain_below=below), 422, "invalid_request")


async def test_choices_tell_what_is_on_none_of_them(calibrated: Running) -> None:
    body = (await ask(calibrated, adapter="digits", choices=["red", "green", "blue"])).raise_for_status().json()
    best = max(choice["probability"] for choice in body["choices"])
    assert body["none_of_these"] == pytest.approx(1 - body["confidence"] / best, abs=1e-5)
    assert (await ask(calibrated)).json()["none_of_these"] is None


async def test_a_broken_calibration_refuses_the_version_and_no_other(fake_adapters: Path, tmp_path: Path) -> None:
    for name in ("digits", "shapes"):
        files = files_of(Store(fake_adapters).stable(name))
        Store(tmp_path).publish(name, files | ({FILE: b'{"format": 1}'} if name == "digits" else {}))
    async with serving(Settings(adapters=tmp_path), FakeEngine()) as running:
        message = assert_error(await ask(running, adapter="digits"), 404, "adapter_not_found")
        assert "is not a calibration" in message
        (await ask(running, adapter="shapes")).raise_for_status()
