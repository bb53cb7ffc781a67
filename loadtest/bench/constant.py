"""A FastAPI app under uvicorn that reads and parses a body, and answers with a constant: the framework's own cost."""

import argparse
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

ANSWER: dict[str, Any] = {"id": "vqa-0", "answer": "red", "confidence": 1.0, "finish_reason": "stop"}

app = FastAPI()


@app.post("/v1/vqa")
async def ask(request: Request) -> dict[str, Any]:
    """Parse the body, JSON or a form, and answer ANSWER."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form() as form:
            form.get("question")
    else:
        await request.json()
    return ANSWER


@app.get("/health")
async def health() -> dict[str, str]:
    """Answer that it serves."""
    return {"status": "ok"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.constant", description=__doc__)
    parser.add_argument("--port", type=int, default=8401)
    uvicorn.run(app, port=parser.parse_args(sys.argv[1:]).port, log_level="warning", access_log=False)
