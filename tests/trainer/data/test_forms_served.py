"""From a file as another tool wrote it to the service's answers: one command trains and publishes, of five forms."""

import base64
import csv
import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.test_start_on_vllm import STOPPED_S, Service
from trainer.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Rows = list[dict[str, Any]]


def dumped(file: Path, value: Any) -> Path:
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def chat(rows: Rows, folder: Path) -> Path:
    """LLaMA-Factory's and ms-swift's: a JSON list of messages, with a list of images beside them."""
    said = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{row['question']}"},
                {"role": "assistant", "content": row["answer"]},
            ],
            "images": [row["image"]],
        }
        for row in rows
    ]
    return dumped(folder / "chat.json", said)


def vqav2(rows: Rows, folder: Path) -> Path:
    """VQAv2's pair of files, ten answers to a question, and COCO's names of pictures."""
    (folder / "train2014").mkdir()
    for row in rows:
        number = int(Path(row["image"]).stem)
        shutil.copyfile(folder / row["image"], folder / f"train2014/COCO_train2014_{number:012}.jpg")
    asked = [
        {"question_id": n, "image_id": int(Path(row["image"]).stem), "question": row["question"]}
        for n, row in enumerate(rows)
    ]
    answered = [
        {
            "question_id": n,
            "image_id": int(Path(row["image"]).stem),
            "question_type": "what",
            "multiple_choice_answer": row["answer"],
            "answers": [{"answer": row["answer"], "answer_confidence": "yes", "answer_id": k} for k in range(10)],
        }
        for n, row in enumerate(rows)
    ]
    dumped(folder / "v2_train2014_annotations.json", {"annotations": answered})
    return dumped(folder / "v2_train2014_questions.json", {"data_subtype": "train2014", "questions": asked})


def excel(rows: Rows, folder: Path) -> Path:
    """Excel's "Unicode text": UTF-16, parted by tabs, with columns named as people name them."""
    table = io.StringIO()
    writer = csv.writer(table, dialect="excel-tab")
    writer.writerows(
        [("Image", "Question", "Answer"), *((row["image"], row["question"], row["answer"]) for row in rows)]
    )
    file = folder / "sheet.txt"
    file.write_bytes(table.getvalue().encode("utf-16"))
    return file


def label_studio(rows: Rows, folder: Path) -> Path:
    """Label Studio's export, whose uploads have letters before their names."""
    tasks = [
        {
            "id": n,
            "data": {"image": f"/data/upload/1/{n:08x}-{row['image']}", "question": row["question"]},
            "annotations": [
                {"result": [{"from_name": "answer", "type": "textarea", "value": {"text": [row["answer"]]}}]}
            ],
        }
        for n, row in enumerate(rows)
    ]
    return dumped(folder / "project-1.json", tasks)


def textvqa(rows: Rows, folder: Path) -> Path:
    """TextVQA's object of data, which names pictures without their endings."""
    data = [
        {
            "question_id": n,
            "image_id": Path(row["image"]).stem,
            "question": row["question"],
            "answers": [row["answer"]] * 10,
            "image_classes": [],
        }
        for n, row in enumerate(rows)
    ]
    return dumped(folder / "TextVQA_train.json", {"dataset_name": "textvqa", "data": data})


FORMS: dict[str, Callable[[Rows, Path], Path]] = {
    "chat": chat,
    "vqav2": vqav2,
    "excel": excel,
    "label-studio": label_studio,
    "textvqa": textvqa,
}


def test_one_command_makes_a_served_adapter_of_each_of_five_forms(codes: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (codes / "train.jsonl").read_text().splitlines()]
    store, model = tmp_path / "store", str(ROOT / "models/tiny-llava")
    for name, write in FORMS.items():
        folder = tmp_path / name
        shutil.copytree(codes, folder, ignore=shutil.ignore_patterns("*.jsonl", "features"))
        paths = ["--data", str(write(rows, folder)), "--images", str(folder), "--store", str(store), "--model", model]
        how = ["--epochs", "15", "--learning-rate", "3e-3", "--rows-per-step", "10", "--holdout", "0.2"]
        places = ["--output", str(tmp_path / f"run-{name}"), "--feature-cache", str(tmp_path / "features")]
        assert main(["train", "--name", name, *paths, *how, *places]) == 0
    service = Service(tmp_path / "log", "--adapters", str(store))
    service.until_ready()
    try:
        for name in FORMS:
            right = sum(ask(service, name, codes, row) == row["answer"] for row in rows[:24])
            assert right >= 18, name  # of six codes a guess is right in four of 24
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(STOPPED_S) == 0


def ask(service: Service, adapter: str, images: Path, row: dict[str, Any]) -> str:
    """The service's answer to a row's question through an adapter."""
    image = f"data:image/png;base64,{base64.b64encode((images / row['image']).read_bytes()).decode()}"
    body = {"image": image, "question": row["question"], "adapter": adapter, "temperature": 0}
    answer = httpx.post(f"{service.url}/v1/vqa", json=body, timeout=120).raise_for_status().json()
    assert answer["adapter"]["name"] == adapter
    return str(answer["answer"])
