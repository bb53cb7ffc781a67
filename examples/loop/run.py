"""From a wrong answer to a better adapter: serve, correct, train, canary, promote; and a worse canary, rolled back.

    make build/data/digits/done
    python examples/loop/run.py

Everything is done by the commands and HTTP routes that a person would use: `python -m trainer`, `python -m service`,
`POST /v1/feedback`, `python -m service.canary`. Only the person is played: it knows the right answers of the digits.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.intervals import wilson

NAME, MODEL = "digits", "models/tiny-llava-int4"
DATA = Path("build/data/digits")
# Pictures, by what they are for; no picture is in two of them, and those of test.jsonl are asked at the very end only.
FIRST, WORSE, ASKED = 60, 16, 400
CORRECTED = 200
SHARE, ROUND, ROUNDS = 0.2, 200, 30
TRAINING = ["--modality", "image", "--model", MODEL, "--learning-rate", "3e-3", "--rows-per-step", "64", "--rank", "16"]


class Loop:
    """One run of the example in a folder, against a service at a port."""

    def __init__(self, folder: Path, port: int, seed: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.port, self.store, self.kept = port, folder / "adapters", folder / "kept"
        self.client = httpx.Client(base_url=self.url, timeout=120)
        rows = [json.loads(line) for line in (DATA / "train.jsonl").read_text().splitlines()]
        seen = {digest(row) for row in rows}  # the same picture may have two names
        tested = map(json.loads, (DATA / "test.jsonl").read_text().splitlines())
        self.unseen = [row for row in tested if digest(row) not in seen]
        pictures = sorted({row["image"] for row in rows})
        self.draw = random.Random(seed)
        self.draw.shuffle(pictures)
        parts = {"first": FIRST, "asked": ASKED, "online": len(pictures) - FIRST - ASKED}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for part, count in parts.items():
            chosen, pictures = set(pictures[:count]), pictures[count:]
            self.rows[part] = [row for row in rows if row["image"] in chosen]

    def train(self, sets: Sequence[tuple[Path, Path]], run: str, *more: str) -> str:
        """Train on some sets of rows and publish; returns the version."""
        before = self._versions()
        named = [word for data, images in sets for word in ("--data", str(data), "--images", str(images))]
        command = ["train", "--name", NAME, "--store", str(self.store), "--output", str(self.folder / run)]
        call("trainer", *command, *named, *TRAINING, *more, folder=self.folder)
        (version,) = self._versions() - before
        return version

    @contextmanager
    def served(self) -> Iterator[None]:
        """A service over the store, which keeps half of all answers by chance and the doubtful ones of the others."""
        command = [sys.executable, "-m", "service", "--model", MODEL, "--adapters", str(self.store)]
        command += ["--port", str(self.port), "--adapters-cache", str(self.folder / "cache")]
        command += ["--capture", str(self.kept), "--capture-share", "0.5", "--capture-below", "0.9"]
        command += ["--capture-a-day", "20000"]
        say(" ".join(["python", *command[1:]]))
        with (self.folder / "service.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                self._wait(process)
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(120)

    def ask(self, rows: Sequence[dict[str, Any]], adapter: str = NAME) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Ask each row's question; each row with what was answered."""

        def one(row: dict[str, Any]) -> dict[str, Any]:
            question, file = row["conversations"][0]["value"].removeprefix("<image>\n"), DATA / "images" / row["image"]
            fields = {"question": question, "adapter": adapter}
            answer = self.client.post("/v1/vqa", data=fields, files={"image": file.read_bytes()})
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        with ThreadPoolExecutor(8) as pool:
            return list(zip(rows, pool.map(one, rows), strict=True))

    def tell(self, id_: str, answer: str) -> bool:
        """Send the right answer to a question; whether it had been kept."""
        told = self.client.post("/v1/feedback", json={"id": id_, "answer": answer})
        if told.status_code != 404:
            told.raise_for_status()
        return told.is_success

    def review(self, truth: dict[str, str]) -> int:
        """Judge kept answers, least confident first, as the page's Review view does; returns how many were wrong."""
        wrong = done = 0
        while done < CORRECTED:
            page = (
                self.client.get("/v1/captured", params={"limit": min(20, CORRECTED - done)}).raise_for_status().json()
            )
            if not page["answers"]:
                raise SystemExit(f"only {done} answers were kept, and {CORRECTED} are to be judged")
            for each in page["answers"]:
                self.tell(each["id"], truth[each["id"]])
                wrong += each["answer"] != truth[each["id"]]
                done += 1
        return wrong

    def download(self) -> Path:
        """The corrected answers as a folder of rows and images."""
        rows = self.folder / "rows.zip"
        rows.write_bytes(self.client.get("/v1/captured/rows.zip").raise_for_status().content)
        with zipfile.ZipFile(rows) as packed:
            packed.extractall(self.folder / "corrected")
        return self.folder / "corrected"

    def watch(self, least: int = 30) -> dict[str, Any]:
        """Ask both versions through the adapter's name, tell what was right, let the watcher look; until it decides."""
        log = self.folder / "decisions.jsonl"
        for number in range(1, ROUNDS + 1):
            rows = self.draw.sample(self.rows["online"], ROUND)
            told = [self.tell(answer["id"], truth_of(row)) for row, answer in self.ask(rows)]
            options = ["--url", self.url, "--adapter", NAME, "--once", "--least", str(least), "--log", str(log)]
            call("service.canary", *options, folder=self.folder, quiet=True)
            line: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
            say(f"round {number}: {ROUND} questions, {sum(told)} judged; {line['decision']}: {line['reason']}")
            if line["decision"] != "wait":
                return line
        raise SystemExit(f"no decision after {ROUNDS} rounds of {ROUND} questions")

    def score(self, version: str) -> str:
        """Of the unseen rows, how many a version answers rightly, with the interval."""
        right = sum(answer["answer"] == truth_of(row) for row, answer in self.ask(self.unseen, f"{NAME}@{version}"))
        return share(right, len(self.unseen))

    def stable(self) -> str:
        """The version that the alias stable leads to."""
        return str(self.client.get(f"/v1/adapters/{NAME}").raise_for_status().json()["aliases"]["stable"]["version"])

    def _versions(self) -> set[str]:
        folder = self.store / NAME / "versions"
        return {each.name for each in folder.iterdir()} if folder.is_dir() else set()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise SystemExit(f"the service ended with status {process.returncode}: {self.folder / 'service.log'} says why")


def run(folder: Path, port: int, seed: int) -> dict[str, str]:
    """The whole loop; returns the table's rows: who answered, and how well on rows that none of them saw."""
    folder.mkdir(parents=True)
    loop = Loop(folder, port, seed)
    images, first, worse = DATA / "images", folder / "first.jsonl", folder / "worse.jsonl"

    say(f"1. A first version learns from {FIRST} pictures.")
    write(first, loop.rows["first"])
    one = loop.train([(first, images)], "run-first", "--epochs", "12")
    with loop.served():
        say(f"\n2. It is asked about {ASKED} pictures that it never saw.")
        asked = loop.ask([row for row in loop.rows["asked"] if row["id"].endswith("-0")])
        truth = {answer["id"]: truth_of(row) for row, answer in asked}
        right = sum(answer["answer"] == truth_of(row) for row, answer in asked)
        say(f"right: {share(right, len(asked))}")

        say(f"\n3. A person judges {CORRECTED} of the answers that were kept, least confident first.")
        say(f"{loop.review(truth)} of {CORRECTED} were wrong, and are corrected")

        say("\n4. What was judged is downloaded, checked, split, and trained on together with the first rows.")
        kept, rows, train, held = loop.download(), folder / "rows.jsonl", folder / "train.jsonl", folder / "held.jsonl"
        call("trainer", "data", "import", "--source", str(kept / "rows.jsonl"), "--images", str(kept / "images"),
             "--output", str(rows), folder=folder)  # fmt: skip
        call("trainer", "data", "split", "--data", str(rows), "--images", str(kept / "images"), "--output", str(train),
             "--held-out", str(held), "--holdout", "0.15", folder=folder)  # fmt: skip
        more = ["--eval-data", str(held), "--init-adapter", NAME, "--epochs", "15", "--canary", str(SHARE)]
        two = loop.train([(train, kept / "images"), (first, images)], "run-corrected", *more)

        say(f"\n5. The new version is a canary with {SHARE:.0%} of the questions; the watcher decides.")
        promoted = loop.watch()
        after = loop.stable()

        say(f"\n6. A worse canary: somebody trained on {WORSE} pictures.")
        write(worse, [row for row in loop.rows["first"] if row["image"] in pictures(loop.rows["first"], WORSE)])
        three = loop.train(
            [(worse, images)], "run-worse", "--epochs", "15", "--holdout", "0.25", "--canary", str(SHARE)
        )
        back = loop.watch()

        say(f"\n7. All are asked the {len(loop.unseen)} rows that nobody saw.")
        end = loop.stable()
        scores = {version: loop.score(version) for version in (one, two, three)}
    table = {
        f"first version ({one[:8]})": scores[one],
        f"canary ({two[:8]}), {promoted['reason']}": scores[two],
        f"stable after that ({after[:8]})": scores[after],
        f"worse canary ({three[:8]}), {back['reason']}": scores[three],
        f"stable at the end ({end[:8]})": scores[end],
    }
    width = max(map(len, table))
    say("\n" + "\n".join(f"{who:<{width}}  {score}" for who, score in table.items()))
    say(f"\nEach decision, with its figures and the command that undoes it: {folder / 'decisions.jsonl'}")
    if (promoted["decision"], back["decision"]) != ("promote", "roll back") or (after, end) != (two, two):
        raise SystemExit("the watcher was expected to promote the canary, and to roll the worse one back")
    return table


def call(module: str, *words: str, folder: Path, quiet: bool = False) -> None:
    """Run one of the project's commands as a person would, its output in a file; a failure ends the example."""
    command = ["-m", module, *words]
    if not quiet:
        say(" ".join(["python", *command]))
    with (folder / "commands.log").open("a") as log:
        done = subprocess.run([sys.executable, *command], stdout=log, stderr=log, env=os.environ)
    if done.returncode:
        raise SystemExit(f"it ended with status {done.returncode}: {folder / 'commands.log'} says why")


def truth_of(row: dict[str, Any]) -> str:
    """A row's right answer."""
    return str(row["conversations"][1]["value"])


def digest(row: dict[str, Any]) -> str:
    """What a row's picture is known by, whatever its name."""
    return hashlib.sha256((DATA / "images" / row["image"]).read_bytes()).hexdigest()


def pictures(rows: Sequence[dict[str, Any]], count: int) -> set[str]:
    """The first so many pictures of some rows."""
    return set(list(dict.fromkeys(row["image"] for row in rows))[:count])


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as lines of JSON."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def share(right: int, of: int) -> str:
    """A share in per cent with its interval."""
    interval = wilson(right, of)
    assert interval is not None
    return f"{right / of:6.1%} of {of} ({interval.low:.1%} to {interval.high:.1%})"


def say(words: str) -> None:
    """Print at once."""
    print(words, flush=True)


def main() -> int:
    """Run the example; a run's folder must be new."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/loop"), help="a new folder for all it writes")
    parser.add_argument("--port", type=int, default=8500, help="port of the service [8500]")
    parser.add_argument("--seed", type=int, default=0, help="another seed takes other pictures [0]")
    options = parser.parse_args()
    if options.folder.exists():
        print(
            f"--folder {options.folder}: is there already, perhaps of an earlier run: name another one to keep it, or"
            f" remove it by `rm -r {options.folder}`",
            file=sys.stderr,
        )
        return 2
    if not (DATA / "test.jsonl").is_file():
        print(
            f"{DATA} is missing: run `make build/data/digits/done` first, from the repository's folder", file=sys.stderr
        )
        return 2
    began = time.monotonic()
    run(options.folder, options.port, options.seed)
    say(f"in {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
