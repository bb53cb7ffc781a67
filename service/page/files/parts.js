// Small parts that several views use.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { percent, sureness } from "./words.js";

/** What went wrong, what to do about it, and a button that tries again. */
export function Trouble({ failure, onRetry }) {
  if (!failure) return null;
  return html`<div class="trouble" role="alert">
    <p><strong>${sentence(failure.message)}</strong>${failure.hint && html` ${failure.hint}`}</p>
    ${failure.request && html`<p class="quiet">Request ${failure.request}</p>`}
    ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

const sentence = (text) => {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
};

/** A share of 1 as a bar with its number, or with what is `said` instead, and a word where `word` asks for one. */
export function Bar({ share, label, word = false, strong = false, said: given }) {
  const said = given ?? `${percent(share)}${word ? `, ${sureness(share)}` : ""}`;
  return html`<div class="bar">
    <div class=${`track ${strong ? "strong" : ""}`} role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="1"
      aria-valuenow=${share.toFixed(3)} aria-valuetext=${said}><div class="fill" style=${{ width: `${(share * 100).toFixed(1)}%` }}></div></div>
    <span class="said">${given ?? percent(share)}${word && html` <span class="quiet">${sureness(share)}</span>`}</span>
  </div>`;
}

/** A modal dialog; the browser keeps the focus inside, and Escape closes it. */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef();
  useEffect(() => { dialog.current.showModal(); }, []);
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${onClose}
    onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <div class="dialog">
      <header><h2 id="dialog-title">${title}</h2>
        <button type="button" class="plain" aria-label="Close" onClick=${() => dialog.current.close()}>✕</button></header>
      ${children}
    </div>
  </dialog>`;
}

/** Text to copy, in a box that can be selected by hand where the browser gives no clipboard (http on another host). */
export function Copyable({ text }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<div class="copyable"><pre tabindex="0">${text}</pre>
    ${navigator.clipboard && html`<button type="button" onClick=${copy}>${done ? "Copied" : "Copy"}</button>`}</div>`;
}
