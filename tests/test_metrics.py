"""Every series the design names is there, and what callers make up never becomes one."""

from service.metrics import Metrics
from tests.conftest import Running
from tests.test_http_edge import ask

SERIES = {
    "vqa_requests_total": {"adapter", "outcome"},
    "vqa_request_seconds": {"adapter"},
    "vqa_time_to_first_token_seconds": {"adapter"},
    "vqa_time_per_output_token_seconds": {"adapter"},
    "vqa_queue_seconds": {"adapter"},
    "vqa_image_seconds": {"stage"},
    "vqa_tokens_total": {"adapter", "kind"},
    "vqa_in_flight": set(),
    "vqa_adapter_resident": {"adapter", "version"},
    "vqa_adapter_load_seconds": set(),
    "vqa_adapter_rejected_total": {"reason"},
    "vqa_engine_restarts_total": set(),
    "vqa_captured_total": {"outcome"},
}


def test_the_series_are_those_of_the_design() -> None:
    made = [each for each in vars(Metrics()).values() if hasattr(each, "_labelnames")]
    totals = {each._name + ("_total" if each._type == "counter" else ""): set(each._labelnames) for each in made}
    assert totals.items() >= SERIES.items()


async def test_names_that_callers_make_up_create_no_series(fake: Running) -> None:
    await ask(fake, adapter="digits")

    async def count() -> int:
        return len((await fake.client.get("/metrics")).text.splitlines())

    await ask(fake, adapter="made-up")
    before = await count()
    for number in range(5):
        await ask(fake, adapter=f"made-up-{number}")
        await ask(fake, adapter=f"digits@{number}")
    assert await count() == before
