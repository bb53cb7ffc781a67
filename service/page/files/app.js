// The page: its four views, what they share, the keyboard, the key, and the region that tells screen readers what is new.

import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { address, get, hasKey, setKey } from "./api.js";
import { Adapters } from "./adapters.js";
import { Ask, withPicture } from "./ask.js";
import { Compare } from "./compare.js";
import { BASE } from "./picker.js";
import { Dialog } from "./parts.js";
import { Figures, useFigures } from "./figures.js";
import { useExamples } from "./picture.js";
import { Review } from "./review.js";

const VIEWS = [["ask", "Ask", Ask], ["compare", "Compare", Compare], ["adapters", "Adapters", Adapters], ["review", "Review", Review]];
// Names that are listed at once; further ones are still found by typing them.
const PAGES = 4;
const SHORTCUTS = "manylens-shortcuts";

// Some browsers forbid a page to keep anything: then the choice holds until a reload.
function remembered() { try { return localStorage.getItem(SHORTCUTS); } catch { return null; } }
function remember(choice) { try { localStorage.setItem(SHORTCUTS, choice); } catch { /* nothing is kept */ } }

const SHEET = [
  ["?", "This sheet"],
  ...VIEWS.map(([, name], index) => [String(index + 1), name]),
  ["p", "Choose a picture"],
  ["a", "Choose an adapter; in Review: accept"],
  ["q", "Write questions"],
  ["c, s", "In Review: correct, skip"],
  ["Ctrl + Enter", "Ask, also from within a field"],
  ["Esc", "Close what is open"],
];

/** Every adapter's line, up to PAGES pages; `whole` is false where there are more. */
async function readCatalogue() {
  const all = { base: null, adapters: [], refused: [], routers: [], whole: true };
  let after = "";
  for (let page = 0; page < PAGES && after !== null; page += 1) {
    const found = await get(`v1/adapters?after=${encodeURIComponent(after)}`);
    all.base = found.base;
    for (const part of ["adapters", "refused", "routers"]) all[part].push(...found[part]);
    after = found.next;
  }
  return { ...all, whole: after === null };
}

function useView() {
  const read = () => VIEWS.find(([name]) => `#${name}` === location.hash)?.[0] ?? "ask";
  const [view, setView] = useState(read);
  useEffect(() => {
    const follow = () => setView(read());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return view;
}

function App() {
  const view = useView(), figures = useFigures(), examples = useExamples();
  const [me, setMe] = useState(null);
  const [catalogue, setCatalogue] = useState({ base: null, adapters: [], refused: [], routers: [], whole: true });
  const [locked, setLocked] = useState(false);
  const [asking, setAsking] = useState({ picture: null, adapter: BASE, besideBase: true, questions: "", choices: "", proposed: "" });
  const [compared, setCompared] = useState({ references: [BASE, BASE], rows: [], asked: [] });
  const [open, setOpen] = useState("");  // the dialog that is open: keys, key, or none
  const [said, setSaid] = useState("");
  const [letters, setLetters] = useState(remembered() !== "off");
  const results = useRef([]);

  const reload = useCallback(async () => {
    try {
      setMe(await get("v1/me"));
      setLocked(false);
      const found = await readCatalogue();
      setCatalogue(found);
      // To begin with, the first adapter is compared with the base.
      setCompared((old) => (old.begun ? old : { ...old, begun: true, references: [found.adapters[0]?.name ?? BASE, BASE] }));
    } catch (error) {
      if (error.code === "unauthorized") { setLocked(true); setMe(null); }
    }
  }, []);
  const ready = figures.last?.ready;
  useEffect(() => { if (ready !== false) reload(); }, [ready]);
  useEffect(() => { document.title = `${VIEWS.find(([name]) => name === view)[1]} · Manylens`; }, [view]);

  useEffect(() => {
    const press = (event) => {
      const field = event.target.closest?.("input:not([type=checkbox]):not([type=file]):not([type=range]), textarea, select, dialog");
      if (field || event.ctrlKey || event.metaKey || event.altKey || !letters) return;
      const target = VIEWS[Number(event.key) - 1];
      if (event.key === "?") setOpen("keys");
      else if (target) location.hash = target[0];
      else {
        // Whatever of this view names the key: a field gets the focus, a button is pressed.
        const named = /^[a-z]$/.test(event.key) && document.querySelector(`[data-key=${event.key}]:not(:disabled)`);
        if (!named) return;
        if (named.matches("button, [type=file]")) named.click(); else named.focus();
      }
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [letters]);

  const keepLetters = (on) => { setLetters(on); remember(on ? "on" : "off"); };
  const takePicture = useCallback((picture) => { setAsking(withPicture(picture)); }, []);
  const app = { me, catalogue, asking, setAsking, compared, setCompared, examples, figures, results, reload, takePicture, announce: setSaid };
  const [, , View] = VIEWS.find(([name]) => name === view);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
    <header class="top">
      <div class="brand"><img src=${address("page/icon.svg").href} alt="" width="26" height="26" /><span class="name">Manylens</span>
        ${catalogue.base && html`<span class="base" title="The base model in service, and its precision">${catalogue.base.id} · ${catalogue.base.precision}</span>`}</div>
      <nav aria-label="Views">${VIEWS.map(([name, title]) => html`<a key=${name} href=${`#${name}`} aria-current=${name === view ? "page" : undefined}>${title}</a>`)}</nav>
      <${Figures} figures=${figures} />
      <div class="tools">
        ${(me?.keyed || locked) && html`<button type="button" onClick=${() => setOpen("key")}>${hasKey() && !locked ? `Key: ${me?.name ?? ""}` : "Key"}</button>`}
        <button type="button" aria-label="Keyboard shortcuts" onClick=${() => setOpen("keys")}>?</button>
      </div>
    </header>
    <main id="main" tabindex="-1">
      ${!figures.up && html`<p class="banner" role="status">The service does not answer at the moment. This page tries again by itself.</p>`}
      ${figures.up && ready === false && html`<p class="banner" role="status">The model is being loaded. You can prepare a question; it can be asked in a minute or so.</p>`}
      ${locked && html`<p class="banner" role="status">${hasKey() ? "The service does not know this key." : "This service asks for a key."} <button type="button" onClick=${() => setOpen("key")}>Enter a key</button></p>`}
      <${View} app=${app} />
    </main>
    <footer class="bottom quiet"><a href=${address("docs").href}>HTTP routes</a> · <a href=${address("page/vendor/licences.txt").href}>licences</a></footer>
    <div class="hidden" role="status" aria-live="polite" id="live">${said}</div>
    ${open === "keys" && html`<${Dialog} title="Keyboard" onClose=${() => setOpen("")}>
      <dl class="sheet">${SHEET.map(([key, text]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>
      <label class="check"><input type="checkbox" checked=${letters} onChange=${(event) => keepLetters(event.target.checked)} /> Single keys work outside of fields</label>
    <//>`}
    ${open === "key" && html`<${KeyDialog} onClose=${() => setOpen("")} onKey=${(key) => { setKey(key); reload(); }} />`}`;
}

function KeyDialog({ onClose, onKey }) {
  const [fault, setFault] = useState("");
  const take = (event) => {
    event.preventDefault();
    const key = new FormData(event.target).get("key").trim();
    if (!/^[\x20-\x7e]*$/.test(key)) return setFault("A key has letters, digits and signs of ASCII only: copy it again.");
    onKey(key);
    event.target.closest("dialog").close();
  };
  return html`<${Dialog} title="Key" onClose=${onClose}>
    <form onSubmit=${take}>
      <label for="key">The key that you were given</label>
      <input id="key" name="key" type="password" autocomplete="off" />
      ${fault && html`<p class="fault" role="alert">${fault}</p>`}
      <p class="quiet">It stays in this tab's memory: a reload forgets it, and nothing is stored. Leave it empty to remove it.</p>
      <button type="submit" class="main">Use this key</button>
    </form>
  <//>`;
}

render(html`<${App} />`, document.getElementById("app"));
