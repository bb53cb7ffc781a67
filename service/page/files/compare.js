// The Compare view: two or three adapters or versions on one picture, with what they say differently marked.

import { html, useState } from "./vendor/htm-preact.js";
import { Failure } from "./api.js";
import { Answer, who } from "./answer.js";
import { About, askBatch, blank, lines, replaced } from "./ask.js";
import { Picker, BASE } from "./picker.js";
import { Picture } from "./picture.js";
import { Trouble } from "./parts.js";
import { plural, same } from "./words.js";

const MOST = 3;
let run = 0;

const differ = ({ answers }) => answers.some(({ whole }) => whole && answers[0].whole && !same(whole.answer, answers[0].whole.answer));

export function Compare({ app }) {
  const { asking, setAsking, compared, setCompared } = app;
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  const { references, rows } = compared;
  const questions = lines(asking.questions);
  const set = (next) => setCompared((old) => ({ ...old, references: next(old.references) }));

  const ask = async () => {
    if (busy) return;
    setFailure(null);
    if (!questions.length) return setFailure(new Failure("no_question", "Write a question first, one on each line."));
    if (new Set(references).size < references.length) return setFailure(new Failure("twice", "One of them was chosen twice: choose different ones."));
    setBusy(true);
    try {
      run += 1;
      let found = blank({ picture: asking.picture, questions, references, choices: [] });
      const show = () => setCompared((old) => ({ ...old, rows: found, asked: references }));
      show();
      await askBatch({ picture: asking.picture, questions, references, choices: [] }, (...at) => { found = replaced(found, ...at); show(); });
      app.announce(`${found.filter(differ).length} of ${plural(found.length, "question")} answered differently.`);
    } catch (error) {
      setFailure(error);
    } finally {
      setBusy(false);
    }
  };

  return html`<div class="view compare">
    <h1 class="hidden">Compare adapters</h1>
    <form class="form" onSubmit=${(event) => { event.preventDefault(); ask(); }}
      onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); } }}>
      <${Picture} picture=${asking.picture} examples=${app.examples} limit=${app.me?.body_limit} onPicture=${app.takePicture} />
      <div class="fields">
        ${references.map((reference, index) => html`<div class="row pick" key=${index}>
          <${Picker} id=${`compare-${index}`} shortcut=${index === 0 ? "a" : undefined} label=${["First", "Second", "Third"][index]} value=${reference} catalogue=${app.catalogue}
            onChange=${(value) => set((old) => old.map((each, at) => (at === index ? value : each)))} />
          ${index >= 2 && html`<button type="button" aria-label="Take the third away" onClick=${() => set((old) => old.slice(0, 2))}>✕</button>`}
        </div>`)}
        ${references.length < MOST && html`<button type="button" class="link" onClick=${() => set((old) => [...old, BASE])}>Add a third</button>`}
        <div class="field"><label for="questions">Questions <span class="quiet">one on each line</span></label>
          <textarea id="questions" data-key="q" rows=${Math.min(8, Math.max(3, asking.questions.split("\n").length))} placeholder="What is in the picture?"
            value=${asking.questions} onInput=${(event) => setAsking((old) => ({ ...old, questions: event.target.value }))}></textarea></div>
        <div class="row"><button type="submit" class="main" disabled=${busy}>${busy ? "Asking…" : "Compare"}</button>
          <span class="quiet keys">Ctrl + Enter · versions by name@version</span></div>
      </div>
    </form>
    <${Trouble} failure=${failure} />
    <section class="results" aria-label="Answers">
      ${rows.length === 0 && !failure && html`<p class="empty">Choose two or three of the adapters, the base or versions of them, then compare what they say about one picture.</p>`}
      <${About} asked=${rows[0]?.picture} shown=${asking.picture} any=${rows.length > 0} />
      ${rows.length > 0 && html`<p><strong>${rows.filter(differ).length} of ${plural(rows.length, "question")}</strong> answered differently.
        <span class="quiet"> Marked is what differs from ${who(compared.asked[0])}.</span></p>`}
      ${rows.map((row, index) => html`<section class=${`result ${differ(row) ? "different" : ""}`} key=${`${run}-${index}`}>
        <h2>${row.question}</h2>
        <div class="answers">${row.answers.map((answer, at) => html`<${Answer} key=${at} app=${app} answer=${answer}
          asked=${{ file: row.picture?.name, question: row.question, choices: row.choices }} other=${at > 0 ? row.answers[0] : null} />`)}</div>
      </section>`)}
    </section>
  </div>`;
}
