// The Adapters view: what is served and how good it is; a row opens to its evaluation, its history and its levers.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { get, post, put, send } from "./api.js";
import { duration, quantile } from "./figures.js";
import { Dialog, Trouble } from "./parts.js";
import { day, interval, percent, plural, short } from "./words.js";

const REFRESH_MS = 5000;
// From this many adapters on they are searched.
const MANY = 8;
const STATES = {
  serving: "serving", stored: "stored, loaded when asked", fetching: "being fetched", here: "fetched", queued: "waits for room", loading: "being loaded",
  leaving: "makes way", unreachable: "cannot be read now", failed: "failed, tried again", refused: "refused",
};
const CONFIDENCE = { true: "calibrated", false: "as the model says it", null: "known when first asked" };

export function Adapters({ app }) {
  const [wanted, setWanted] = useState("");
  const [open, setOpen] = useState("");
  const { catalogue, figures, me } = app;
  useEffect(() => {
    app.reload();
    // Each look counts against a key's rate: with one, only opening the view and changing something looks again.
    const timer = me && !me.rate ? setInterval(() => { if (!document.hidden) app.reload(); }, REFRESH_MS) : null;
    return () => clearInterval(timer);
  }, [me?.rate]);
  const shown = catalogue.adapters.filter((each) => `${each.name} ${each.about ?? ""}`.toLowerCase().includes(wanted.toLowerCase()));
  return html`<div class="view adapters">
    <div class="row"><h1>Adapters</h1>
      <span class="quiet">of ${catalogue.base ? `${catalogue.base.id} in ${catalogue.base.precision}` : "the base model"}</span></div>
    ${catalogue.adapters.length > MANY && html`<div class="field"><label for="search">Search</label>
      <input id="search" data-key="a" type="text" value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></div>`}
    ${!catalogue.whole && html`<p class="banner">There are more adapters than are listed here. Those can be asked by name in the Ask view.</p>`}
    ${shown.length === 0
      ? html`<p class="empty">${catalogue.adapters.length ? "None is called that." : "No adapter is in the store yet. Train one with python -m trainer train, and it appears here."}</p>`
      : html`<ul class="listed">${shown.map((each) => html`<${Row} key=${each.name} app=${app} adapter=${each}
          perMinute=${figures.perMinute.get(each.name)} seconds=${figures.last?.adapters.get(each.name)?.buckets}
          open=${open === each.name} onToggle=${() => setOpen(open === each.name ? "" : each.name)} />`)}</ul>`}
    <p class="quiet">The score is the share of right answers on held-out questions, with its 95% interval (Wilson), beside the base's on the same questions.
      Requests a minute and p95 are of this replica${figures.last && figures.last.adapters.size <= 1 && !me?.admin ? "; your key may not see them" : ""}.</p>
    ${catalogue.refused.length > 0 && html`<section><h2>Not served</h2><ul class="refused">
      ${catalogue.refused.map((each) => html`<li key=${`${each.name}@${each.version}`}>
        <p><strong>${each.name}</strong>${" "}${each.version && html`<span class="version">${short(each.version)}</span>`}</p><p>${each.message}</p>
        <p class="quiet">${each.retry_at ? `tried again at ${clock(each.retry_at)}` : `refused (${each.reason}) until its files change`}</p></li>`)}</ul></section>`}
  </div>`;
}

const clock = (iso) => new Date(iso).toLocaleTimeString();

function Row({ app, adapter, perMinute, seconds, open, onToggle }) {
  const canary = Object.entries(adapter.weights).map(([alias, weight]) => `${alias} ${percent(weight)}`).join(", ");
  const facts = [
    ["Proof", adapter.proof ? `${adapter.proof}${adapter.created ? `, trained ${day(adapter.created)}` : ""}` : "when it is first asked"],
    ["State", html`<span class=${`state ${adapter.state}`}>${STATES[adapter.state] ?? adapter.state}</span>`],
    ["Rank", adapter.rank ?? "–"],
    ["Requests a minute", perMinute === undefined ? "–" : perMinute.toFixed(perMinute < 10 ? 1 : 0)],
    ["p95", seconds ? duration(quantile(seconds, 0.95)) : "–"],
    ["Canary", canary || "none"],
    ["Confidence", CONFIDENCE[String(adapter.calibrated)]],
  ];
  return html`<li class="adapter">
    <h2><button type="button" class="opener" aria-expanded=${open} aria-controls=${`detail-${adapter.name}`} onClick=${onToggle}>
      <span aria-hidden="true">${open ? "▾" : "▸"}</span> ${adapter.name}</button>
      <span class="version" title=${adapter.version}>stable ${short(adapter.version)}</span></h2>
    ${adapter.about && html`<p class="about">${adapter.about}</p>`}
    <div class="score">${adapter.rows ? html`<${Score} rows=${adapter.rows} base=${adapter.base_right} adapter=${adapter.adapter_right} />`
      : html`<span class="quiet">${adapter.proof === "unproven" ? "no score: it has no manifest" : "its score is known once it was asked"}</span>`}</div>
    <dl class="stats">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${adapter.message && html`<p class="fault">${adapter.message}${adapter.retry_at && ` It is tried again at ${clock(adapter.retry_at)}.`}</p>`}
    <div id=${`detail-${adapter.name}`} hidden=${!open}>${open && html`<${Detail} app=${app} name=${adapter.name} />`}</div>
  </li>`;
}

/** The adapter's share of right answers and its interval as a line on a scale of 0 to 100%, the base's as a ring. */
function Score({ rows, base, adapter }) {
  const [low, high] = interval(adapter, rows), share = adapter / rows, wide = 200, at = (value) => (4 + value * (wide - 8)).toFixed(1);
  const said = `${percent(share, 1)} right (${percent(low, 1)} to ${percent(high, 1)}), base ${percent(base / rows, 1)}`;
  return html`<svg class="scale" viewBox=${`0 0 ${wide} 16`} width=${wide} height="16" role="img" aria-label=${said}>
      <path class="axis" d=${`M4 8H${wide - 4}`} /><path class="range" d=${`M${at(low)} 8H${at(high)}`} />
      <circle class="theirs" cx=${at(base / rows)} cy="8" r="3.5" /><circle class="ours" cx=${at(share)} cy="8" r="4" /></svg>
    <p><strong>${percent(share, 1)}</strong> <span class="quiet">${percent(low, 1)} to ${percent(high, 1)}</span></p>
    <p class="quiet">base ${percent(base / rows, 1)}, ${plural(rows, "question")}</p>`;
}

function Detail({ app, name }) {
  const [detail, setDetail] = useState(null);
  const [failure, setFailure] = useState(null);
  const path = `v1/adapters/${encodeURIComponent(name)}`;
  const look = async () => { try { setDetail(await get(path)); setFailure(null); } catch (error) { setFailure(error); } };
  useEffect(() => { look(); }, [name]);
  const change = async (act, said) => {
    setFailure(null);
    try {
      await act();
      app.announce(said);
      await look();
      app.reload();
    } catch (error) { setFailure(error); }
  };
  if (!detail) return failure ? html`<${Trouble} failure=${failure} onRetry=${look} />` : html`<p class="quiet">Looking…</p>`;
  const stable = detail.versions.find((each) => each.version === detail.aliases.stable?.version);
  return html`<div class="detail">
    <${Trouble} failure=${failure} />
    <${Evaluation} manifest=${stable?.manifest} />
    ${app.me?.admin && html`<${Online} detail=${detail} />`}
    <${History} detail=${detail} />
    ${app.me?.admin
      ? html`<${Levers} name=${name} path=${path} detail=${detail} change=${change} />`
      : html`<p class="quiet">An admin's key can share out a canary, promote it and roll back.</p>`}
  </div>`;
}

function Evaluation({ manifest }) {
  if (!manifest) return null;
  const categories = Object.entries(manifest.categories);
  return html`<section><h3>Evaluation</h3>
    <table><caption class="hidden">Right answers on held-out questions, by category</caption>
      <thead><tr><th scope="col">Category</th><th scope="col">Questions</th><th scope="col">Base</th><th scope="col">Adapter, 95% interval</th></tr></thead>
      <tbody>${[["all", manifest.score], ...(categories.length > 1 ? categories : [])].filter(([, score]) => score.rows).map(([category, { rows, base, adapter }]) => html`<tr key=${category}>
        <th scope="row">${category}</th><td>${rows.toLocaleString("en")}</td><td>${percent(base / rows, 1)}</td>
        <td>${percent(adapter / rows, 1)} <span class="quiet">${interval(adapter, rows).map((end) => percent(end, 1)).join(" to ")}</span></td></tr>`)}</tbody></table>
    ${manifest.gate && html`<p class="quiet">Published by ${manifest.gate.metric}: base ${manifest.gate.base.toPrecision(4)}, adapter ${manifest.gate.adapter.toPrecision(4)}.</p>`}
    <p class="quiet">Trained by ${manifest.trainer} on a base in ${manifest.base_precision}, rank ${manifest.rank}.</p>
  </section>`;
}

/** How the versions that the aliases lead to do with their callers: feedback, questions of this replica, and times. */
function Online({ detail }) {
  const of = (version) => detail.versions.find((each) => each.version === version)?.online;
  const stableFirst = ([one], [other]) => (other === "stable") - (one === "stable");
  const judged = (figures) => (figures?.interval
    ? html`${percent(figures.agreement, 1)} <span class="quiet">${figures.interval.map((end) => percent(end, 1)).join(" to ")}, of ${figures.right + figures.wrong} judged</span>`
    : detail.kept_in ? "none was judged yet" : "feedback is not kept");
  return html`<section class="online"><h3>With its callers</h3>
    ${Object.entries(detail.aliases).sort(stableFirst).map(([alias, { version }]) => [alias, version, of(version)]).map(([alias, version, figures]) => html`
      <div key=${alias}><h4>${alias} <span class="version" title=${version}>${short(version)}</span></h4>
        <dl class="stats">${[["Found right", judged(figures)], ["Answered", (figures?.answered ?? 0).toLocaleString("en")], ["Failed", (figures?.failed ?? 0).toLocaleString("en")],
          ["p50", duration(figures?.p50_s)], ["p95", duration(figures?.p95_s)]].map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></div>`)}
    <p class="quiet">${detail.since ? `Since an alias changed last, ${new Date(detail.since).toLocaleString()}.` : "Since this replica started."}${" "}
      Found right is the share of judged answers that were right, with its 95% interval; questions and times are this replica's.</p>
  </section>`;
}

function History({ detail }) {
  const aliases = Object.entries(detail.aliases);
  const named = (version) => aliases.filter(([, alias]) => alias.version === version).map(([alias]) => alias);
  const before = detail.aliases.stable?.previous ?? [];
  return html`<section><h3>Versions and history</h3>
    <ul class="versions">${[...detail.versions].sort((a, b) => (b.manifest?.created ?? "").localeCompare(a.manifest?.created ?? "")).map((each) => html`<li key=${each.version}>
      <span class="version" title=${each.version}>${short(each.version)}</span>
      ${named(each.version).map((alias) => html`<span class="tag" key=${alias}>${alias}</span>`)}
      <span class="quiet">${STATES[each.state] ?? each.state}${each.manifest ? `, trained ${day(each.manifest.created)}, ${percent(each.manifest.score.adapter / Math.max(1, each.manifest.score.rows), 1)} right` : ""}</span>
      ${each.message && html`<span class="fault">${each.message}</span>`}</li>`)}</ul>
    <p class="quiet">${before.length ? `stable was ${before.map(short).join(", then ")}, and is now ${short(detail.aliases.stable.version)}.` : "stable has always been this version."}</p>
  </section>`;
}

function Levers({ name, path, detail, change }) {
  const { stable, canary } = detail.aliases;
  const others = detail.versions.filter((each) => each.version !== stable?.version);
  const [version, setVersion] = useState(canary?.version ?? others[0]?.version ?? "");
  const [weight, setWeight] = useState(Math.round((canary?.weight ?? 0.1) * 100));
  const [asking, setAsking] = useState(null);  // what is to be confirmed: {text, verb, act}
  const back = stable?.previous.at(-1);
  const confirm = () => { asking.act(); setAsking(null); };
  return html`<section class="levers"><h3>Release</h3>
    ${others.length === 0
      ? html`<p class="quiet">There is one version. Publish another, and a share of the questions can go to it first.</p>`
      : html`<form class="canary" onSubmit=${(event) => { event.preventDefault(); change(() => put(path, { alias: "canary", version, weight: weight / 100 }), `The canary of ${name} gets ${weight}%.`); }}>
        <label for=${`version-${name}`}>Canary</label>
        <select id=${`version-${name}`} value=${version} onChange=${(event) => setVersion(event.target.value)}>
          ${others.map((each) => html`<option key=${each.version} value=${each.version}>${short(each.version)}</option>`)}</select>
        <label for=${`weight-${name}`}>Share of the questions: <output>${weight}%</output></label>
        <input id=${`weight-${name}`} type="range" min="0" max="100" step="1" value=${weight} onInput=${(event) => setWeight(Number(event.target.value))} />
        <button type="submit">Share out</button>
      </form>`}
    <div class="row">
      ${canary && html`<button type="button" onClick=${() => change(() => put(path, { version: "canary" }).then(() => send("DELETE", `${path}?alias=canary`)), `The canary of ${name} is stable now.`)}>Promote the canary</button>
        <button type="button" onClick=${() => change(() => send("DELETE", `${path}?alias=canary`), `${name} has no canary now.`)}>Take the canary away</button>`}
      <button type="button" disabled=${!back} onClick=${() => setAsking({ text: `Every question to ${name} is then answered by version ${short(back)}, as it was before ${short(stable.version)}.`, verb: `Roll back to ${short(back)}`,
        act: () => change(() => post(`${path}/rollback`, {}), `${name} was rolled back to ${short(back)}.`) })}>Roll back${back ? ` to ${short(back)}` : ""}</button>
      ${!back && html`<span class="quiet">There is no version before this one.</span>`}
    </div>
    ${asking && html`<${Dialog} title=${`Roll ${name} back?`} onClose=${() => setAsking(null)}><p>${asking.text}</p>
      <div class="row"><button type="button" class="main" onClick=${confirm}>${asking.verb}</button><button type="button" onClick=${() => setAsking(null)}>Cancel</button></div><//>`}
  </section>`;
}
