"""The composition root: options -> checkpoint -> vLLM imported -> engine -> app -> server."""

import errno
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service import logs, tracing, usage
from service.auth import KeysFault
from service.checkpoint import locate
from service.engine import forking
from service.engine.sizing import DoesNotFit, Sizes
from service.memory import return_large_blocks
from service.settings import Settings

PROGRAM = "python -m service"
# Between two lines that say that something is still going on.
PROGRESS_S = 5.0
# How long a thread that computes may keep Python from the event loop once that has something to do; 5 ms is usual.
_SWITCH_S = 0.0001

log = logging.getLogger(__name__)


class CannotListen(Exception):
    """Why nothing can listen at the address that the options name; `option` is the one to change."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(why)
        self.option = option


def run(arguments: list[str], alone: bool = False, program: str = PROGRAM) -> int:
    """Serve until told to stop; returns the exit status: 2 where an option is wrong, else as `service.server.serve`.

    `alone` says that this process does nothing else and has no threads yet, so that it may be forked. A first argument
    `serve` may be left out: SageMaker starts every image with it. `program` is what help calls this command.
    """
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    if usage.wants_help(arguments):
        print(usage.usage(program, Settings, flags=False), end="")
        return 0
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        logs.configure(settings.log_level, settings.log_format)
        return _serve(settings, alone)
    except SettingsError as error:
        print(usage.unknown(error, program, Settings) or error, file=sys.stderr)
    except ValidationError as error:
        for fault in error.errors():
            option = "_".join(map(str, fault["loc"]))
            print(f"option {option} (VQA_{option.upper()}): {fault['msg']}", file=sys.stderr)
    except (DoesNotFit, CannotListen) as error:
        print(f"option {error.option} (VQA_{error.option.upper()}): {error}", file=sys.stderr)
    except KeysFault as error:
        print(f"option keys (VQA_KEYS): {error}", file=sys.stderr)
    except FileNotFoundError as error:
        print(f"option model (VQA_MODEL): {error}", file=sys.stderr)
    return 2


def _serve(settings: Settings, alone: bool) -> int:
    _check_address(settings.host, settings.port)
    if alone and (downloads := not Path(settings.model).is_dir()):  # which starts threads: nothing is forked after it
        _import_and_fork()
    checkpoint = locate(settings.model)
    sizes = Sizes.of(checkpoint, settings)
    if alone and not downloads:
        _import_and_fork()
    from service.app import create_app
    from service.engine.vllm import VLLMEngine
    from service.server import serve

    if settings.otlp is not None:
        try:
            tracing.export(str(settings.otlp))
        except ImportError as error:
            print(f"option otlp (VQA_OTLP): {error}: install manylens[tracing]", file=sys.stderr)
            return 2
    sys.setswitchinterval(_SWITCH_S)
    return_large_blocks()  # of this process: the engine's were forked from it before
    app = create_app(settings, checkpoint, VLLMEngine(checkpoint, settings, sizes), sizes=sizes)
    return serve(app, settings, forking.abandon)


def _check_address(host: str, port: int) -> None:
    """Find out before all that takes time whether this process may listen there; nothing listens yet.

    Raises:
        CannotListen: the port is taken or not allowed, or `host` is no address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen("host", f"{host!r} is not found: {error.strerror}") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                trial.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    way_out = f"end that one, or choose another port, as --port {port + 1 if port < 65535 else 8001}"
                    raise CannotListen("port", f"{port} of {host} is taken by another process: {way_out}") from error
                option = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
                why = os.strerror(error.errno or 0)
                raise CannotListen(option, f"cannot listen on {host}, port {port}: {why}") from error


def _import_and_fork() -> None:
    """Have vLLM's processes forked from one that has imported all; a line every few seconds says that it goes on.

    By a timer's signal: there must be no thread yet.
    """
    began = time.monotonic()
    logging.captureWarnings(True)
    log.info("importing torch and vLLM, once for all processes")
    signal.signal(signal.SIGALRM, lambda *_: log.info("importing: %.0f s so far", time.monotonic() - began))
    signal.setitimer(signal.ITIMER_REAL, PROGRESS_S, PROGRESS_S)
    try:
        forked = forking.begin()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    how = "its processes are forked from this one" if forked else "its processes import it again"
    log.info("imported in %.1f s; %s", time.monotonic() - began, how)
