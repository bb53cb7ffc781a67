// The Ask view: one picture, questions line by line, an adapter, and the base beside it.

import { html, useRef, useState } from "./vendor/htm-preact.js";
import { stream, streamBatch, Failure } from "./api.js";
import { Answer } from "./answer.js";
import { Picker, BASE } from "./picker.js";
import { Picture } from "./picture.js";
import { Trouble } from "./parts.js";
import { percent } from "./words.js";

export const lines = (text) => [...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean))];

/** Takes a picture over; an example brings its questions and its adapter, unless the user wrote questions of their own. */
export const withPicture = (picture) => (old) => {
  const proposed = !old.questions.trim() || old.questions === old.proposed;
  if (!picture.example || !proposed) return { ...old, picture };
  const questions = picture.example.questions.join("\n");
  return { ...old, picture, questions, proposed: questions, adapter: picture.example.adapter ?? BASE };
};

// Counts what was asked, so that no answer is drawn with the state (a correction, an open dialog) of an earlier one.
let run = 0;

/** Results of questions about `picture` to be asked of `references`: [{question, picture, choices, answers: [{reference, text}]}]. */
export const blank = ({ picture, questions, references, choices }) => questions.map((question) => ({
  question, picture, choices, answers: references.map((reference) => ({ reference, text: "" })),
}));

/** Asks a batch of every question and reference; `say(row, column, answer)` gets each answer as soon as it is there. */
export async function askBatch({ picture, questions, references, choices }, say, signal) {
  const body = { questions: questions.map((question) => ({ question, ...(choices.length ? { choices } : {}) })), adapters: references.map((each) => each || null) };
  if (picture) body.image = picture.url;
  for await (const { index, result } of streamBatch(body, signal)) {
    const row = Math.floor(index / references.length), column = index % references.length, reference = references[column];
    const { error } = result;
    say(row, column, error ? { reference, failure: new Failure(error.code, error.message, error.request_id) } : { reference, whole: result });
  }
}

/** `results` with one answer in place of another. */
export const replaced = (results, row, column, answer) => results.map((each, at) => (at !== row ? each
  : { ...each, answers: each.answers.map((old, index) => (index === column ? answer : old)) }));

export function Ask({ app }) {
  const { asking, setAsking } = app;
  const [results, setResults] = useState(app.results.current);
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  const abort = useRef(null);
  const put = (next) => { setResults((old) => (app.results.current = typeof next === "function" ? next(old) : next)); };
  const change = (fields) => setAsking((old) => ({ ...old, ...fields }));
  const questions = lines(asking.questions), choices = lines(asking.choices);
  const references = asking.adapter === BASE || !asking.besideBase ? [asking.adapter] : [asking.adapter, BASE];

  const one = async (question, signal) => {
    const answers = references.map(async (reference, column) => {
      const say = (fields) => put((old) => old.map((row) => ({ ...row, answers: row.answers.map((each, at) => (at === column ? { ...each, ...fields(each) } : each)) })));
      try {
        const body = { question, adapter: reference || null };
        if (asking.picture) body.image = asking.picture.url;
        if (choices.length) body.choices = choices;
        for await (const event of stream(body, signal)) {
          if ("delta" in event) say((old) => ({ text: old.text + event.delta }));
          else say(() => ({ whole: event }));
        }
      } catch (error) {
        if (error.name === "AbortError") throw error;
        say(() => ({ failure: error }));
      }
    });
    await Promise.all(answers);
  };

  const ask = async () => {
    setFailure(null);
    if (!questions.length) {
      setFailure(new Failure("no_question", "Write a question first, one on each line."));
      document.getElementById("questions")?.focus();
      return;
    }
    if (choices.length === 1) return setFailure(new Failure("one_choice", "Give at least two choices, one on each line, or none."));
    const most = app.me?.batch_questions;
    if (most && questions.length * references.length > most) {
      return setFailure(new Failure("too_many", `${questions.length * references.length} questions are too many: this service takes ${most} at once, counting each adapter.`));
    }
    abort.current?.abort();
    const { signal } = (abort.current = new AbortController());
    setBusy(true);
    run += 1;
    put(blank({ picture: asking.picture, questions, references, choices }));
    app.announce("Asked.");
    try {
      if (questions.length === 1) await one(questions[0], signal);
      else await askBatch({ picture: asking.picture, questions, references, choices }, (...at) => put((old) => replaced(old, ...at)), signal);
      app.announce(told(app.results.current));
    } catch (error) {
      if (error.name === "AbortError") return;
      put([]);
      setFailure(error);
    } finally {
      if (abort.current?.signal === signal) setBusy(false);
    }
  };
  const stop = () => { abort.current?.abort(); setBusy(false); put([]); app.announce("Stopped."); };

  return html`<div class="view ask">
    <h1 class="hidden">Ask about a picture</h1>
    <form class="form" onSubmit=${(event) => { event.preventDefault(); ask(); }}
      onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); } }}>
      <${Picture} picture=${asking.picture} examples=${app.examples} limit=${app.me?.body_limit}
        onPicture=${app.takePicture} />
      <div class="fields">
        <${Picker} id="adapter" shortcut="a" label="Adapter" value=${asking.adapter} catalogue=${app.catalogue} onChange=${(adapter) => change({ adapter })} />
        <label class="check"><input type="checkbox" checked=${asking.besideBase} disabled=${asking.adapter === BASE}
          onChange=${(event) => change({ besideBase: event.target.checked })} /> Compare with the base</label>
        <div class="field"><label for="questions">Questions <span class="quiet">one on each line</span></label>
          <textarea id="questions" data-key="q" rows=${Math.min(8, Math.max(3, asking.questions.split("\n").length))} placeholder="What is in the picture?"
            value=${asking.questions} onInput=${(event) => change({ questions: event.target.value })}></textarea></div>
        <details open=${choices.length > 0}><summary>Choices <span class="quiet">the answer is one of these</span></summary>
          <label class="hidden" for="choices">Choices, one on each line</label>
          <textarea id="choices" rows=${Math.min(8, Math.max(3, asking.choices.split("\n").length))} placeholder=${"yes\nno"} value=${asking.choices} onInput=${(event) => change({ choices: event.target.value })}></textarea></details>
        <div class="row">
          <button type="submit" class="main" disabled=${busy}>${busy ? "Asking…" : questions.length > 1 ? `Ask ${questions.length} questions` : "Ask"}</button>
          ${busy && html`<button type="button" onClick=${stop}>Stop</button>`}
          <span class="quiet keys">Ctrl + Enter</span>
        </div>
      </div>
    </form>
    <${Trouble} failure=${failure} onRetry=${failure?.request !== undefined && !["no_question", "one_choice", "too_many"].includes(failure?.code) ? ask : null} />
    <section class="results" aria-label="Answers">
      ${results.length === 0 && !failure && html`<p class="empty">Choose a picture or one of the six examples, then ask. Answers appear here.</p>`}
      <${About} asked=${results[0]?.picture} shown=${asking.picture} any=${results.length > 0} />
      ${results.map((row, index) => html`<section class="result" key=${`${run}-${index}`}>
        <h2>${row.question}</h2>
        <div class="answers">${row.answers.map((answer, at) => html`<${Answer} key=${`${run}-${at}`} app=${app} answer=${answer}
          asked=${{ file: row.picture?.name, choices: row.choices, question: row.question }} other=${at === 0 ? row.answers[1] : null} />`)}</div>
      </section>`)}
    </section>
  </div>`;
}

/** Says which picture answers are about, where another one has been chosen since they were asked. */
export function About({ asked, shown, any }) {
  if (!any || asked?.url === shown?.url) return null;
  return html`<p class="about">${asked
    ? html`<img src=${asked.url} alt=${asked.alt} /> These answers are about the picture before: ${asked.name}.`
    : "These answers were asked without a picture."}</p>`;
}

/** What a screen reader is told when answers are complete. */
function told(results) {
  const said = results.map(({ question, answers }) => {
    const each = answers.map(({ reference, whole, failure }) => `${reference || "base model"}: ${whole ? `${whole.answer}, ${percent(whole.confidence)}` : failure?.message ?? ""}`);
    return `${question} ${each.join("; ")}.`;
  });
  return said.length > 3 ? `${said.length} questions answered.` : said.join(" ");
}
