"""Options come from the environment and the command line; a bad one ends the start and is named."""

import socket

import pytest

from service.__main__ import main
from service.settings import Settings


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_PORT", "9000")
    monkeypatch.setenv("VQA_MAX_LORA_RANK", "128")
    monkeypatch.setenv("VQA_ENGINE_ARGS", '{"tensor_parallel_size": 2}')
    monkeypatch.setenv("VQA_IMAGE_URL_HOSTS", '["cdn.example.com"]')
    settings = Settings()
    assert settings.port == 9000
    assert settings.max_lora_rank == 128
    assert settings.image_url_hosts == ("cdn.example.com",)
    assert settings.image_url_private is False
    assert settings.engine_args == {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ADAPTERS", "nope://store"),
        ("PORT", "x"),
        ("MAX_LORA_RANK", "7"),
        ("DEADLINE_S", "-1"),
        ("IMAGE_URL_HOSTS", '["https://cdn.example.com"]'),
    ],
)
def test_a_bad_value_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.setenv(f"VQA_{option}", value)
    assert main([]) == 2
    assert f"VQA_{option}" in capsys.readouterr().err


def test_a_model_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["--model", "no/such-model"]) == 2
    assert "VQA_MODEL" in capsys.readouterr().err


def test_the_word_that_sagemaker_starts_an_image_with_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "no"]) == 2
    assert "option port" in capsys.readouterr().err
    assert main(["serve", "--model", "no/such-model"]) == 2
    assert "option model" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_anything_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--model", "no/such-model"]) == 2
    told = capsys.readouterr().err
    assert f"option port (VQA_PORT): {port} of 127.0.0.1 is taken by another process" in told
    assert "--port" in told


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_named(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", host, "--anonymous", "true", "--model", "no/such-model"]) == 2
    assert "option host (VQA_HOST): " in capsys.readouterr().err
