// One answer: what was said, by which version, how surely, how fast; and whether it was right.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { post } from "./api.js";
import { Bar, Copyable, Dialog, Trouble } from "./parts.js";
import { snippets } from "./snippets.js";
import { duration } from "./figures.js";
import { percent, same, short } from "./words.js";

export const who = (reference) => reference || "Base model";

/**
 * `answer` is {reference, text, whole, failure}: `text` is what has come so far, `whole` the service's answer once it is
 * complete. `other` is the answer beside it from which a difference is marked.
 */
export function Answer({ app, asked, answer, other, showCode = true }) {
  const { reference, text, whole, failure } = answer;
  const [code, setCode] = useState(false);
  const differs = whole && other?.whole && !same(whole.answer, other.whole.answer);
  return html`<article class="answer" aria-busy=${!whole && !failure}>
    <h3>${who(reference)}
      ${whole?.adapter && html`<span class="version" title=${`version ${whole.adapter.version}`}>${short(whole.adapter.version)}</span>`}
      ${differs && html`<span class="mark">differs from ${other.reference || "the base"}</span>`}</h3>
    ${failure
      ? html`<${Trouble} failure=${failure} />`
      : html`<p class=${`said ${whole ? "" : "coming"}`}>${whole ? (differs && whole.answer ? marked(whole.answer, other.whole.answer) : whole.answer || "(no words)") : text}</p>`}
    ${whole && html`
      <${Confidence} whole=${whole} />
      ${whole.choices && html`<${Choices} whole=${whole} />`}
      ${whole.finish_reason === "length" && html`<p class="quiet">Cut at the longest answer allowed.</p>`}
      <footer><${Verdict} app=${app} whole=${whole} />
        <span class="quiet facts">${duration(whole.timing.total_s)}
        ${showCode && html` · <button type="button" class="link" onClick=${() => setCode(true)}>as code</button>`}</span></footer>`}
    ${code && html`<${Dialog} title="Ask the same by code" onClose=${() => setCode(false)}>
      ${snippets({ ...asked, adapter: reference }, app.catalogue.base?.id ?? "base").map(([name, snippet]) => html`
        <h3>${name}</h3><${Copyable} text=${snippet} />`)}
      <p class="quiet">${asked.file && html`The picture is read from the file ${asked.file}. `}
        Your key is not written into the code: it is read from the variable MANYLENS_KEY where one is needed.</p>
    <//>`}
  </article>`;
}

/** How often such an answer is right where the version knows that from held-out questions, else the model's own word. */
function Confidence({ whole }) {
  const right = whole.calibrated_confidence ?? null;
  if (right === null) return html`<${Bar} share=${whole.confidence} label="Confidence" word strong />`;
  return html`<${Bar} share=${right} label="Confidence" word strong />
    <p class="quiet">Of held-out answers like this one ${percent(right)} were right; the model itself says ${percent(whole.confidence)}.</p>`;
}

/** A text with the words marked that `other` does not have. */
function marked(text, other) {
  const theirs = new Set(other.toLowerCase().split(/\s+/));
  return text.split(/(\s+)/).map((word) => (word.trim() && !theirs.has(word.toLowerCase()) ? html`<mark>${word}</mark>` : word));
}

/** Each choice's probability among all answers the model might give, and what is left for answers that are no choice. */
function Choices({ whole }) {
  const mass = 1 - whole.none_of_these;  // `probability` is among the choices
  return html`<dl class="choices">
    ${whole.choices.map(({ text, probability }) => html`<div key=${text}><dt>${text}</dt>
      <dd><${Bar} share=${probability * mass} label=${text} /></dd></div>`)}
    <div class="none"><dt>none of these</dt><dd><${Bar} share=${whole.none_of_these} label="none of these" /></dd></div>
  </dl>`;
}

/** Right, wrong, or the right answer; taken where the service keeps questions. */
function Verdict({ app, whole }) {
  const [state, setState] = useState("");  // "", asking, sent
  const [failure, setFailure] = useState(null);
  const field = useRef();
  useEffect(() => { if (state === "asking") field.current?.focus(); }, [state]);
  if (!app.me?.keeps) {
    return html`<span class="quiet" title="Start the service with --capture DIRECTORY to keep questions and corrections">No feedback: started without --capture</span>`;
  }
  const send = async (right) => {
    setFailure(null);
    try {
      await post("v1/feedback", { id: whole.id, answer: right });
      setState("sent");
      app.announce("Thank you, the right answer was kept.");
    } catch (error) { setFailure(error); }
  };
  if (state === "sent") return html`<span class="kept">✓ Kept as training data</span>`;
  return html`<div class="verdict">
    ${state === "asking"
      ? html`<form onSubmit=${(event) => { event.preventDefault(); send(new FormData(event.target).get("right").trim()); }}>
          <label>The right answer is <input name="right" required maxlength="2000" autocomplete="off" ref=${field}
            onKeyDown=${(event) => { if (event.key === "Escape") { event.stopPropagation(); setState(""); } }} /></label>
          <button type="submit">Keep</button></form>`
      : html`<button type="button" disabled=${!whole.answer.trim()} onClick=${() => send(whole.answer)}>Right</button>
        <button type="button" onClick=${() => setState("asking")}>Wrong</button>`}
    <${Trouble} failure=${failure} />
  </div>`;
}
