// Choosing whom to ask: a text field with a list that is searched as one types (ARIA's editable combobox).

import { html, useEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { get } from "./api.js";
import { percent, short } from "./words.js";

export const BASE = "";
const BASE_NAME = "Base model";
const MOST = 50;

const score = ({ rows, adapter_right: right }) => (rows ? percent(right / rows, 1) : "");

/** What may be chosen for the text typed so far: [{value, name, note}], at most MOST. */
function options(typed, catalogue, detail) {
  const [name, version] = typed.split("@");
  if (version !== undefined) {
    if (detail?.name !== name) return [];
    const aliases = Object.entries(detail.aliases).map(([alias, { version: at }]) => ({ value: `${name}@${alias}`, name: `${name}@${alias}`, note: short(at) }));
    const versions = detail.versions.map(({ version: at, state }) => ({ value: `${name}@${short(at)}`, name: `${name}@${short(at)}`, note: state }));
    return [...aliases, ...versions].filter((each) => each.name.startsWith(typed)).slice(0, MOST);
  }
  const wanted = typed.toLowerCase();
  const fits = (text) => text.toLowerCase().includes(wanted);
  const base = fits(BASE_NAME) || fits(catalogue.base?.id ?? "") ? [{ value: BASE, name: BASE_NAME, note: catalogue.base?.id ?? "" }] : [];
  const found = catalogue.adapters.filter((each) => fits(each.name) || fits(each.about ?? ""));
  const routers = catalogue.routers.filter((each) => fits(each.name));
  return [
    ...base,
    ...found.slice(0, MOST).map((each) => ({ value: each.name, name: each.name, note: score(each) })),
    ...routers.slice(0, MOST).map((each) => ({ value: each.name, name: each.name, note: "router" })),
  ];
}

export function Picker({ id, label, value, onChange, catalogue, shortcut }) {
  const shown = value === BASE ? BASE_NAME : value;
  const [typed, setTyped] = useState(null);  // null: nothing is being typed
  const [touched, setTouched] = useState(false);
  const [active, setActive] = useState(-1);
  const [detail, setDetail] = useState(null);
  const list = useRef();
  const open = typed !== null;
  const found = useMemo(() => (open ? options(typed, catalogue, detail) : []), [typed, catalogue, detail]);
  const about = open && typed.includes("@") ? typed.split("@")[0] : "";
  useEffect(() => {
    if (about && detail?.name !== about) get(`v1/adapters/${encodeURIComponent(about)}`).then(setDetail, () => {});
  }, [about]);
  useEffect(() => { list.current?.children[active]?.scrollIntoView?.({ block: "nearest" }); }, [active]);
  const close = () => { setTyped(null); setTouched(false); setActive(-1); };
  const choose = (chosen) => { close(); onChange(chosen); };
  const leave = () => {
    if (!open) return;
    if (!touched) return close();  // the list was only looked at
    const text = typed.trim();
    const base = !text || text === BASE_NAME || text === catalogue.base?.id;
    // What is not in the list may still be there: a version, or one of ten thousand. The service says if it is not.
    choose(base ? BASE : text);
  };
  const keys = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return setTyped("");
      const step = event.key === "ArrowDown" ? 1 : -1;
      setActive((old) => (old + step + found.length) % Math.max(1, found.length));
    } else if (event.key === "Enter" && open) {
      event.preventDefault();
      if (found[active]) choose(found[active].value);
      else if (found.length === 1) choose(found[0].value);
      else leave();
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      close();
    }
  };
  const at = (index) => `${id}-option-${index}`;
  return html`<div class="picker">
    <label for=${id}>${label}</label>
    <input id=${id} type="text" role="combobox" data-key=${shortcut} autocomplete="off" spellcheck="false" aria-autocomplete="list"
      aria-expanded=${open && found.length > 0} aria-controls=${`${id}-list`}
      aria-activedescendant=${open && active >= 0 ? at(active) : undefined}
      value=${open ? typed : shown} placeholder=${open ? "Search, or name@version" : ""}
      onFocus=${(event) => event.target.select()} onClick=${() => open || setTyped("")}
      onInput=${(event) => { setTyped(event.target.value); setTouched(true); setActive(-1); }} onKeyDown=${keys} onBlur=${leave} />
    <ul id=${`${id}-list`} role="listbox" aria-label=${label} ref=${list} hidden=${!open || found.length === 0}>
      ${found.map((each, index) => html`<li key=${each.value} id=${at(index)} role="option" aria-selected=${index === active}
        onMouseDown=${(event) => { event.preventDefault(); choose(each.value); }}>
        <span>${each.name}</span><span class="quiet">${each.note}</span></li>`)}
    </ul>
  </div>`;
}
