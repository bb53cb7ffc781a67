"""The composition root: Settings -> checkpoint -> engine -> app -> uvicorn."""

import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from service import logs, tracing
from service.app import create_app
from service.auth import KeysFault
from service.checkpoint import locate
from service.engine.sizing import DoesNotFit, Sizes
from service.engine.vllm import VLLMEngine
from service.server import serve
from service.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:] if arguments is None else arguments)
        checkpoint = locate(settings.model)
        logs.configure(settings.log_level, settings.log_format)
        if settings.otlp is not None:
            tracing.export(str(settings.otlp))
        sizes = Sizes.of(checkpoint, settings)
        app = create_app(settings, checkpoint, VLLMEngine(checkpoint, settings, sizes), sizes=sizes)
    except ValidationError as error:
        for fault in error.errors():
            option = "_".join(map(str, fault["loc"]))
            print(f"option {option} (VQA_{option.upper()}): {fault['msg']}", file=sys.stderr)
        return 2
    except DoesNotFit as error:
        print(f"option {error.option} (VQA_{error.option.upper()}): {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"option otlp (VQA_OTLP): {error}: install manylens[tracing]", file=sys.stderr)
        return 2
    except KeysFault as error:
        print(f"option keys (VQA_KEYS): {error}", file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"option model (VQA_MODEL): {error}", file=sys.stderr)
        return 2
    return serve(app, settings)


if __name__ == "__main__":
    sys.exit(main())
