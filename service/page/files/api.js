// Calls to the service's HTTP routes. The key is kept in this module's memory alone: a reload forgets it.

let key = "";

export const hasKey = () => key !== "";
export const setKey = (text) => { key = text; };

// The page may lie below a prefix (--root-path): every address is relative to <base>.
export const address = (path) => new URL(path, document.baseURI);

// What to do about each kind of error, beside what the service says of it.
const WAYS_OUT = {
  unreachable: "Check that the service is running and that this machine can reach it, then try again.",
  cut: "The connection ended before the answer did. Try again.",
  unauthorized: "Enter a key that the service knows: press Key at the top.",
  forbidden: "Your key may ask questions only. Enter an admin's key to change what is served.",
  limit_reached: "Your key has asked as often as it may. Wait, then try again.",
  overloaded: "Many are asking at the moment. Try again in a few seconds.",
  engine_unavailable: "The model is being loaded, which takes a minute or so. Try again then.",
  adapter_unavailable: "The adapter could not be loaded just now, and is tried again by itself.",
  adapter_not_found: "Choose an adapter from the list, or ask the base model.",
  adapter_refused: "Nothing was changed. The Adapters view tells what is wrong with that version.",
  store_unavailable: "The adapter store cannot be read just now. Try again in a few seconds.",
  deadline_exceeded: "The model was too slow this time. Ask fewer questions at once, or try again.",
  draining: "The service is being stopped. Try again when it runs.",
  body_too_large: "Choose a smaller picture.",
  image_too_large: "Choose a smaller picture.",
  image_broken: "Choose another picture: this file is damaged or only half of it came.",
  image_type_refused: "Choose a PNG, JPEG, WebP or GIF picture.",
  image_shape_refused: "Choose a picture with fewer pixels, or of another shape.",
  prompt_too_long: "Ask a shorter question.",
  text_too_long: "Write less.",
  question_not_found: "Feedback is only taken where the service keeps questions (option --capture).",
  internal: "The service's log has the reason, under the request's id.",
};

/** What went wrong: `code` and `message` as the service words them, and a `hint` that says what to do. */
export class Failure extends Error {
  constructor(code, message, request = "") {
    super(message);
    this.code = code;
    this.request = request;
    this.hint = WAYS_OUT[code] ?? "";
  }
}

async function refusal(response) {
  const wait = response.headers.get("retry-after");
  const said = await response.json().catch(() => ({}));
  const error = said.error ?? {};
  const message = error.message ?? `the service answered with status ${response.status}`;
  const failure = new Failure(error.code ?? "unknown", message, error.request_id);
  if (wait) failure.wait = Number(wait);
  return failure;
}

/** The response to a request. Raises Failure, or an AbortError where `signal` ended it. */
export async function send(method, path, body, signal) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("unreachable", "The service did not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const get = async (path, signal) => (await send("GET", path, undefined, signal)).json();

export async function post(path, body, signal) {
  const response = await send("POST", path, body, signal);
  return response.status === 204 ? null : response.json();
}

export const put = async (path, body) => (await send("PUT", path, body)).json();

/** What the server-sent events of a POST say, one after the other, until the last. Raises Failure. */
async function* events(path, body, signal) {
  const response = await send("POST", path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure("cut", "Only a part of the answer came.");
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const data = /^data: (.*)$/m.exec(rest.slice(0, end))?.[1];
      if (data === "[DONE]") return;
      if (!data) continue;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(event.error.code, event.error.message, event.error.request_id);
      yield event;
    }
  }
}

/** One streamed question: `{delta}` for each piece, then the whole answer. */
export const stream = (body, signal) => events("v1/vqa", body, signal);

/** A streamed batch: `{index, result}` for each answer or error, as they come. */
export const streamBatch = (body, signal) => events("v1/vqa/batch", body, signal);
