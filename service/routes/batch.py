"""POST /v1/vqa/batch: many questions about the same images, which are fetched and decoded once."""

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from service.answer_id import answer_id
from service.batch import answer_all, answer_each
from service.routes import failure, listening
from service.routes.bodies import documented, read_json
from service.routes.direct import Direct
from service.routes.state import Caller, RequestKey, Running, Service
from service.schemas.batch import BatchEvent, BatchRequest, BatchResponse
from service.schemas.errors import ErrorResponse
from service.schemas.vqa import VQAResponse
from service.types import Answer, Question

router = APIRouter(tags=["questions"], route_class=Direct)
_PATH = "/v1/vqa/batch"


_ANSWERED = "for each question, in order, its answer or its `error`; 200 also where some or all of them failed"


@router.post(
    _PATH,
    openapi_extra=documented(_PATH, BatchRequest),
    response_model=BatchResponse,
    response_description=_ANSWERED,
)
async def ask_all(request: Request, service: Running, tenant: Caller, key: RequestKey = None) -> Response:
    """Answer each question, or say what is wrong with it; each counts as a request of its own, in metrics too.

    The status is 200 whatever came of the questions: look for `error` in each result, whose `code` is the one that
    `POST /v1/vqa` gives. Another status means that none was asked: the body, the key, its rate, or too many questions.

    They wait for one another where your key may have fewer requests at once.
    """
    id_ = answer_id("vqa", request.state.request_id)

    def to_questions(body: BatchRequest) -> list[Question]:
        questions = body.to_questions(id_, service.deadline_s, service.settings.batch_questions)
        return [replace(question, tenant=tenant, key=key, patient=True) for question in questions]

    body, questions = await read_json(request, BatchRequest, service.reading, to_questions)
    streamed = body.stream
    del body  # which has the images as text
    await service.tenants.charge(tenant, len(questions) - 1)  # one was charged when it came
    if streamed:
        return await _stream(request, service, questions)
    found = await listening.unless_gone(request.receive, answer_all(service.vqa, questions))
    results = [_result(each, request.state.request_id) for each in found]
    return Response(BatchResponse(id=id_, results=results).model_dump_json(), media_type="application/json")


async def _stream(request: Request, service: Service, questions: list[Question]) -> Response:
    """The response that sends each result as a server-sent event of its own, as soon as it is there, then [DONE]."""
    id_, left = request.state.request_id, len(questions)

    def write(found: tuple[int, Answer | BaseException]) -> str:
        nonlocal left
        left -= 1
        event = BatchEvent(index=found[0], result=_result(found[1], id_))
        return f"data: {event.model_dump_json()}\n\n" + ("" if left else "data: [DONE]\n\n")

    def fail(error: Exception) -> str:
        body = ErrorResponse(error=failure.describe(error, id_).body)
        return f"event: error\ndata: {body.model_dump_json()}\n\n"

    return await listening.stream(request, answer_each(service.vqa, questions), write, fail)


def _result(found: Answer | BaseException, request_id: str) -> VQAResponse | ErrorResponse:
    if isinstance(found, Answer):
        return VQAResponse.of(found)
    return ErrorResponse(error=failure.describe(found, request_id).body)
