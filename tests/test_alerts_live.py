"""Every fault fires its alert in a real Prometheus and Alertmanager and is told as over: `make test-alerts`.

The service is the real one on vLLM, the rules are those of deploy/observability with a minute taken for a second. At
the end every query of rules and dashboards must have found series, and both dashboards are drawn into
build/observability.
Needs prometheus, alertmanager, and root (a small disk is mounted).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import matplotlib
import pytest
import yaml

from deploy.observability.boards import ENGINE, SERVICE, Board
from loadtest.store.stores import files_of
from service.adapters.manifest import FILE, Manifest, Score
from service.adapters.modules import WEIGHTS
from service.adapters.store import Store
from tests.balancers import free_port
from tests.conftest import ADAPTERS, CHECKPOINT, ROOT, png
from tests.test_http_edge import data_url
from tests.test_observability import plain, rules
from tests.test_start_on_vllm import Service
from tests.watched import ALERTMANAGER, Watch, wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (ALERTMANAGER and shutil.which("prometheus") and os.geteuid() == 0),
        reason="needs prometheus, alertmanager and root",
    ),
]
PICTURES = ROOT / "build/observability"
# A cache of 9 blocks of 128 tokens: one context of 1,024 and no second.
OPTIONS = (
    "--in-flight", "4", "--waiting", "16", "--connections", "60", "--max-loras", "2", "--max-cpu-loras", "4",
    "--adapters-poll-s", "0.5", "--engine-canary-s", "3", "--engine-canary-deadline-s", "5", "--log-level", "warning",
    "--engine-args", '{"num_gpu_blocks_override": 9}',
)  # fmt: skip
# Held to a schema, the model's answer has some hundred tokens; by itself it has three.
NUMBERS = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 150, "maxItems": 200}
LONG = {
    "model": "tiny-llava-int4",
    "messages": [{"role": "user", "content": "count"}],
    "max_tokens": 500,
    "response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}},
}


@dataclass
class Fleet:
    """Two replicas under watch; `two` follows the store through a link, and has a base of its own."""

    watch: Watch
    store: Store
    link: Path
    base: Path
    disk: Path
    one: Service
    two: Service
    took: dict[str, float] = field(default_factory=dict)

    def fires(self, *alerts: str, after: float) -> None:
        self.took |= self.watch.fires(*alerts, after=after)

    def ask(self, service: Service, adapter: str | None = None, **fields: Any) -> httpx.Response:
        body = {"question": "what is it?", "adapter": adapter, "image": data_url(png())} | fields
        return httpx.post(f"http://127.0.0.1:{service.port}/v1/vqa", json=body, timeout=60)

    def engine(self, service: Service, but: int | None = None) -> int:
        """The process of a service's engine, once there is one; another than `but`."""
        wait(lambda: bool(set(service.engines()) - {but}), "the service has an engine")
        return next(pid for pid in service.engines() if pid != but)

    def kill_engine(self, service: Service) -> None:
        """By -9, and return when there is another that answers."""
        os.kill(killed := self.engine(service), signal.SIGKILL)
        self.engine(service, but=killed)
        service.until_ready()


@contextlib.contextmanager
def load(service: Service, clients: int, path: str = "/v1/vqa", **fields: Any) -> Iterator[None]:
    """So many clients ask at once, again and again; a refused one comes again soon."""
    over = threading.Event()

    def ask_on() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                with contextlib.suppress(httpx.TransportError):
                    if not client.post(f"http://127.0.0.1:{service.port}{path}", json=fields).is_success:
                        over.wait(0.2)

    threads = [threading.Thread(target=ask_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("watch", "disk"):
        (folder / name).mkdir()
    disk, base, link = folder / "disk", folder / "base", folder / "link"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=True)
    shutil.copytree(ADAPTERS, folder / "store")
    shutil.copytree(CHECKPOINT, base)
    link.symlink_to(folder / "store")
    watch, ports = Watch(folder / "watch"), (free_port(), free_port())
    for port in ports:
        watch.add(port)

    def start(number: int, *options: str) -> Service:
        cache = ("--adapters-cache", str(folder / f"cache-{number}"), "--metrics-port", str(ports[number]))
        return Service(folder / f"log-{number}", *OPTIONS, *cache, *options)

    one = start(0, "--adapters", str(folder / "store"), "--capture", str(disk / "kept"))
    one.until_ready()  # one after the other: two imports on two cores take as long
    two = start(1, "--adapters", str(link), "--model", str(base))
    two.until_ready()
    fleet = Fleet(watch, Store(folder / "store"), link, base, disk, one, two)
    try:
        yield fleet
    finally:
        for alert, seconds in fleet.took.items():
            print(f"{alert}: told after {seconds:.1f} s")
        for service in (one, two):
            service.process.kill()
            service.process.wait(60)
            service.assert_nothing_left()
        watch.stop()
        subprocess.run(["umount", str(disk)], check=True)


def test_load_at_several_times_what_a_replica_takes(fleet: Fleet) -> None:
    alerts, began = ("Queueing", "Shedding", "LatencyBudgetFast", "LatencyBudgetSlow"), time.time()
    with load(fleet.one, 40, "/v1/chat/completions", **LONG):
        fleet.fires(*alerts, after=began)
    fleet.watch.resolves(*alerts)


def test_long_answers_in_a_small_cache(fleet: Fleet) -> None:
    began = time.time()
    with load(fleet.one, 8, "/v1/chat/completions", **LONG):
        fleet.fires("KVCachePressure", after=began)
    fleet.watch.resolves("KVCachePressure")


def test_an_engine_killed_again_and_again_under_load(fleet: Fleet) -> None:
    wait(lambda: not fleet.watch.now('ALERTS{alertname=~"ErrorBudget.+",alertstate="firing"}'), "the budget rests")
    alerts, began = ("EngineRestarted", "ErrorBudgetFast", "ErrorBudgetSlow"), time.time()
    with load(fleet.one, 4, question="what is it?"):
        for _ in range(3):
            fleet.kill_engine(fleet.one)
        fleet.fires(*alerts, after=began)
    fleet.watch.resolves(*alerts)


def test_an_engine_that_stands_still(fleet: Fleet) -> None:
    began = time.time()
    os.kill(fleet.engine(fleet.one), signal.SIGSTOP)
    fleet.fires("EngineSilent", after=began)
    fleet.watch.resolves("EngineSilent")
    fleet.one.until_ready()


def test_a_version_whose_weights_are_cut_short(fleet: Fleet) -> None:
    files = files_of(fleet.store.stable("digits"))
    fleet.store.publish("broken", files | {WEIGHTS: files[WEIGHTS][:-1000]})
    began = time.time()
    time.sleep(2)
    assert fleet.ask(fleet.one, "broken").status_code == 404
    probe = Manifest.model_validate_json(files[FILE]).probes[0].model_copy(update={"adapter_answer": "no such answer"})
    changed(fleet, "liar", probes=(probe,))
    wait(lambda: fleet.ask(fleet.one, "liar").status_code == 503, "it answers its probe otherwise")
    fleet.fires("AdapterRefused", after=began)
    fleet.watch.resolves("AdapterRefused")


def changed(fleet: Fleet, name: str, source: str = "digits", **fields: Any) -> str:
    """Publish a copy of an adapter with other words in its manifest; returns its version."""
    files = files_of(fleet.store.stable(source))
    manifest = Manifest.model_validate_json(files[FILE]).model_copy(update={"name": name} | fields)
    return fleet.store.publish(name, files | {FILE: manifest.model_dump_json().encode()}).version


def test_24_adapters_where_4_have_room(fleet: Fleet) -> None:
    names = [f"lens-{number}" for number in range(24)]
    for name in names:
        changed(fleet, name)
    time.sleep(2)
    began, over = time.time(), threading.Event()

    def ask_all() -> None:
        while not over.is_set():
            for name in names:
                if not over.is_set():
                    fleet.ask(fleet.one, name)

    asking = threading.Thread(target=ask_all)
    asking.start()
    try:
        fleet.fires("AdapterThrash", after=began)
    finally:
        over.set()
        asking.join()
    fleet.watch.resolves("AdapterThrash")


def test_a_canary_whose_answers_are_corrected(fleet: Fleet) -> None:
    stable = fleet.store.stable("shapes").version
    canary = changed(fleet, "shapes", "shapes", about="a canary")
    fleet.store.change("shapes", lambda aliases: aliases.point("stable", stable).point("canary", canary, 0.5))
    time.sleep(2)
    began = time.time()
    while not any(name == "CanaryFailing" for name, _, when in fleet.watch.heard if when >= began):
        assert time.time() < began + 240
        answer = fleet.ask(fleet.one, "shapes", question="what color is the shape?").raise_for_status().json()
        right = answer["answer"] if answer["adapter"]["version"] == stable else "something else"
        feedback = {"id": answer["id"], "answer": right}
        httpx.post(f"http://127.0.0.1:{fleet.one.port}/v1/feedback", json=feedback, timeout=60).raise_for_status()
    fleet.fires("CanaryFailing", after=began)
    fleet.store.change("shapes", lambda aliases: aliases.without("canary"))
    fleet.watch.resolves("CanaryFailing")


def test_a_manifest_with_a_low_score(fleet: Fleet) -> None:
    changed(fleet, "worse", score=Score(rows=10, base=8, adapter=3))
    time.sleep(2)
    began = time.time()
    fleet.ask(fleet.one, "worse").raise_for_status()
    fleet.fires("AdapterWorseThanBase", after=began)
    fleet.store.delete("worse")
    fleet.watch.resolves("AdapterWorseThanBase")


def test_a_store_that_is_moved_away_and_back(fleet: Fleet) -> None:
    store, away = fleet.link.resolve(), fleet.link.parent / "away"
    fleet.ask(fleet.one, "digits").raise_for_status()
    began = time.time()
    store.rename(away)
    fleet.fires("StoreStale", after=began)
    fleet.ask(fleet.one, "digits").raise_for_status()  # what serves goes on serving
    away.rename(store)
    fleet.watch.resolves("StoreStale")


def test_a_replica_cut_off_from_the_store_while_a_version_is_released(fleet: Fleet) -> None:
    for service in (fleet.one, fleet.two):
        fleet.ask(service, "digits").raise_for_status()
    store = fleet.link.resolve()
    fleet.link.unlink()
    began, new = time.time(), changed(fleet, "digits", about="newer")
    wait(lambda: fleet.ask(fleet.one, "digits").json()["adapter"]["version"] == new, "the first replica moved")
    fleet.fires("ReplicasDisagree", after=began)
    fleet.link.symlink_to(store)
    fleet.watch.resolves("ReplicasDisagree")


def test_a_full_disk(fleet: Fleet) -> None:
    began, filler = time.time(), fleet.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    for number in range(3):
        fleet.ask(
            fleet.one, question=f"what is it, {number}?", image=data_url(png(size=(64 + number, 64)))
        ).raise_for_status()
    fleet.fires("CaptureFailing", after=began)
    filler.unlink()
    fleet.watch.resolves("CaptureFailing")


def test_sockets_that_send_nothing(fleet: Fleet) -> None:
    began = time.time()
    with contextlib.ExitStack() as held:
        for _ in range(58):
            held.enter_context(socket.create_connection(("127.0.0.1", fleet.one.port)))
        fleet.fires("ConnectionsFull", after=began)
    fleet.watch.resolves("ConnectionsFull")


def test_a_base_that_is_gone_when_the_engine_is_started_again(fleet: Fleet) -> None:
    began, away = time.time(), fleet.base.with_name("gone")
    fleet.base.rename(away)
    os.kill(fleet.engine(fleet.two), signal.SIGKILL)
    fleet.fires("NotReady", after=began)
    away.rename(fleet.base)
    fleet.watch.resolves("NotReady")


def test_a_replica_killed_by_9(fleet: Fleet) -> None:
    began, metrics = time.time(), fleet.two
    metrics.process.kill()
    metrics.process.wait(30)
    fleet.fires("Down", after=began)
    # It is not coming back here: it is no longer to be watched.
    (fleet.watch.folder / "targets.json").write_text(
        (fleet.watch.folder / "targets.json").read_text().replace(f', "{fleet.watch._targets[1]}"', "")
    )
    fleet.watch.resolves("Down")


def test_every_query_of_rules_and_dashboards_found_series(fleet: Fleet) -> None:
    with load(fleet.one, 6, question="what is it?", adapter="digits", image=data_url(png())):
        time.sleep(10)
        wanted = {rule["record"]: rule["record"] for rule in rules() if "record" in rule}
        wanted |= {
            f"{board.uid}: {panel.title} {number}": plain(expression)
            for board in (SERVICE, ENGINE)
            for panel in board.panels
            for number, (expression, _) in enumerate(panel.queries)
        }
        empty = [where for where, expression in wanted.items() if not fleet.watch.query(expression)]
    assert not empty


def test_every_query_of_the_autoscaler_gives_one_number(fleet: Fleet) -> None:
    """KEDA takes several elements, or none, for an error."""
    scaled = yaml.safe_load((ROOT / "deploy/k8s/components/keda/scaledobject.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        assert len(fleet.watch.now(trigger["metadata"]["query"])) == 1, trigger


@pytest.mark.parametrize("board", [SERVICE, ENGINE], ids=lambda board: str(board.uid))
def test_the_dashboards_are_drawn(fleet: Fleet, board: Board) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    assert draw(fleet.watch, board, PICTURES / f"{board.uid}.png") == len(board.panels)


def draw(watch: Watch, board: Board, file: Path) -> int:
    """The panels of a dashboard as one picture; returns how many show anything."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = -(-len(board.panels) // 3)
    figure, axes = pyplot.subplots(lines, 3, figsize=(21, 3.6 * lines), layout="constrained")
    shown = 0
    for axis, panel in zip(axes.flat, board.panels, strict=False):
        for expression, legend in panel.queries:
            for series in watch.query(plain(expression)):
                name = legend
                for label, value in series["metric"].items():
                    name = name.replace(f"{{{{{label}}}}}", value)
                points = [(float(when) - watch.began, float(value)) for when, value in series["values"]]
                axis.plot(*zip(*points, strict=True), label=name[:40], linewidth=1)
        handles, _ = axis.get_legend_handles_labels()
        shown += bool(handles)
        axis.set_title(f"{panel.title} ({panel.unit})", fontsize=9)
        axis.set_ylim(bottom=0)
        if handles:
            axis.legend(*(part[:10] for part in axis.get_legend_handles_labels()), fontsize=5, ncols=2)
    figure.suptitle(board.title)
    figure.savefig(file, dpi=70)
    pyplot.close(figure)
    return shown
