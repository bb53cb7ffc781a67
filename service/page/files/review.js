// The Review view: answers that were kept, least confident first, to be accepted or corrected, and taken away as rows.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { get, post, send } from "./api.js";
import { Bar, Trouble } from "./parts.js";
import { who } from "./answer.js";
import { plural, short } from "./words.js";

const PAGE = 10;
// A first training is worth trying from about so many right answers on.
const ENOUGH = 200;

export function Review({ app }) {
  const [found, setFound] = useState(null);  // the service's page of kept answers
  const [queue, setQueue] = useState([]);
  const [adapter, setAdapter] = useState("");
  const [failure, setFailure] = useState(null);
  const [correcting, setCorrecting] = useState(false);
  const [done, setDone] = useState(0);
  const [busy, setBusy] = useState(false);
  const skipped = useRef(0);
  const field = useRef();
  const row = queue[0];
  const load = async () => {
    setFailure(null);
    try {
      const wanted = adapter ? `&adapter=${encodeURIComponent(adapter)}` : "";
      const page = await get(`v1/captured?limit=${PAGE}&skip=${skipped.current}${wanted}`);
      setFound(page);
      setQueue(page.answers);
    } catch (error) { setFailure(error); }
  };
  const keeps = app.me?.keeps;
  useEffect(() => { skipped.current = 0; if (keeps) load(); }, [adapter, keeps]);
  useEffect(() => { if (correcting) field.current?.focus(); }, [correcting]);

  const next = () => {
    setCorrecting(false);
    if (queue.length > 1) setQueue(queue.slice(1)); else load();
  };
  const keep = async (answer) => {
    if (busy) return;
    setBusy(true);
    setFailure(null);
    try {
      await post("v1/feedback", { id: row.id, answer });
      setDone((old) => old + 1);
      setFound((old) => ({ ...old, waiting: old.waiting - 1, right: { ...old.right, [row.adapter ?? ""]: (old.right[row.adapter ?? ""] ?? 0) + 1 } }));
      app.announce("Kept. Next one.");
      next();
    } catch (error) { setFailure(error); } finally { setBusy(false); }
  };
  const skip = () => { skipped.current += 1; next(); };
  const download = async () => {
    setFailure(null);
    try {
      const url = URL.createObjectURL(await (await send("GET", "v1/captured/rows.zip")).blob());
      const link = Object.assign(document.createElement("a"), { href: url, download: "rows.zip" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) { setFailure(error); }
  };

  if (app.me && !app.me.keeps) {
    return html`<div class="view"><h1>Review</h1><p class="empty">This service keeps no questions. Started with --capture DIRECTORY, it keeps questions,
      pictures and answers there, and they can be corrected here and become training data.</p></div>`;
  }
  const right = Object.entries(found?.right ?? {});
  const total = right.reduce((sum, [, count]) => sum + count, 0);
  return html`<div class="view review">
    <div class="row"><h1>Review</h1><span class="quiet">what you asked, least confident first</span></div>
    <${Trouble} failure=${failure} onRetry=${load} />
    ${found && html`<div class="progress">
      <div class="counts">${right.length === 0 && html`<p class="quiet">No right answer is kept yet.</p>`}
        ${right.map(([name, count]) => html`<${Progress} key=${name} name=${name} count=${count} />`)}</div>
      <div class="row">
        <label class="check" for="of">Answers of <select id="of" value=${adapter} onChange=${(event) => setAdapter(event.target.value)}>
          <option value="">all</option>${app.catalogue.adapters.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}</option>`)}</select></label>
        <button type="button" disabled=${total === 0} onClick=${download}>Download as training rows</button>
      </div>
      <p class="quiet">A first training is worth trying from about ${ENOUGH} right answers on: unpack the rows, then python -m trainer train.</p></div>`}
    ${row ? html`<article class="card" data-id=${row.id}>
        ${row.image ? html`<img class="preview" src=${row.image} alt="What the model saw" />` : html`<p class="quiet">no picture</p>`}
        <div class="fields">
          <h2>${row.question}</h2>
          <p class="quiet">${who(row.adapter)}${" "}${row.version && html`<span class="version">${short(row.version)}</span>`} said</p>
          <p class="said">${row.answer}</p>
          <${Bar} share=${row.confidence} label="Confidence" word strong />
          ${correcting
            ? html`<form class="row" onSubmit=${(event) => { event.preventDefault(); keep(new FormData(event.target).get("right").trim()); }}>
                <label for="right">The right answer is</label>
                <input id="right" name="right" required maxlength="2000" autocomplete="off" ref=${field} onKeyDown=${(event) => { if (event.key === "Escape") setCorrecting(false); }} />
                <button type="submit" class="main">Keep</button><button type="button" onClick=${() => setCorrecting(false)}>Cancel</button></form>`
            : html`<div class="row">
                <button type="button" class="main" data-key="a" disabled=${busy} onClick=${() => keep(row.answer)}>Accept <kbd>a</kbd></button>
                <button type="button" data-key="c" onClick=${() => setCorrecting(true)}>Correct <kbd>c</kbd></button>
                <button type="button" data-key="s" onClick=${skip}>Skip <kbd>s</kbd></button></div>`}
          <p class="quiet">${plural(found.waiting, "answer")} to review${done ? `, ${done} done just now` : ""}${found.whole ? "" : "; the oldest are not counted"}</p>
        </div></article>`
      : found && !failure && html`<p class="empty">${skipped.current ? "That was the last one; those you skipped are still there." : "Nothing to review. Ask something in the Ask view, and it appears here."}
          ${skipped.current > 0 && html`<button type="button" onClick=${() => { skipped.current = 0; load(); }}>Start over</button>`}</p>`}
  </div>`;
}

function Progress({ name, count }) {
  const left = ENOUGH - count;
  return html`<div class="goal"><p><strong>${who(name)}</strong>${" "}<span class="quiet">${left > 0 ? `${left} right answers to go` : "enough for a training"}</span></p>
    <${Bar} share=${Math.min(1, count / ENOUGH)} label=${`Right answers for ${who(name)}`} said=${`${count} of ${ENOUGH}`} /></div>`;
}
