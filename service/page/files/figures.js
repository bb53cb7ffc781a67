// What /metrics tells, read every few seconds: latency, queue and requests in flight, and rates by adapter.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { send } from "./api.js";

const EVERY_MS = 2000, KEPT = 45, MINUTE_MS = 60_000;
// With hundreds of adapters /metrics is megabytes: at most a twentieth of the time is spent on it.
const REST = 20;
const SAMPLE = /^(vqa_\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Prometheus text -> the samples of our own series, as {name, labels, value}. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("vqa_") && SAMPLE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) labels[name] = value;
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}

/** One look at the samples: gauges, and by adapter ("" is the base) its requests and its histogram of seconds. */
export function look(samples, at) {
  const seen = { at, flying: 0, waiting: 0, ready: null, seconds: 0, answered: 0, adapters: new Map() };
  const adapter = (labels) => {
    const name = labels.adapter ?? "";
    if (!seen.adapters.has(name)) seen.adapters.set(name, { requests: 0, buckets: [] });
    return seen.adapters.get(name);
  };
  for (const { name, labels, value } of samples) {
    if (name === "vqa_in_flight") seen.flying = value;
    else if (name === "vqa_requests_waiting") seen.waiting = value;
    else if (name === "vqa_ready") seen.ready = value === 1;
    else if (name === "vqa_request_seconds_sum") seen.seconds += value;
    else if (name === "vqa_request_seconds_count") { seen.answered += value; adapter(labels).requests += value; }
    else if (name === "vqa_request_seconds_bucket") adapter(labels).buckets.push([Number(labels.le.replace("+Inf", "Infinity")), value]);
  }
  return seen;
}

/** The seconds that `share` of the requests of a histogram took at most, linear within a bucket; null: there are none. */
export function quantile(buckets, share) {
  const sorted = [...buckets].sort((a, b) => a[0] - b[0]);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (!total) return null;
  let low = 0, before = 0;
  for (const [bound, count] of sorted) {
    if (count >= share * total) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((share * total - before) / (count - before));
    }
    [low, before] = [bound, count];
  }
  return low;
}

/** Looks at /metrics for as long as the page is visible. `up` is false while it does not answer. */
export function useFigures() {
  const [state, setState] = useState({ up: true, points: [], last: null, perMinute: new Map() });
  const looks = useRef([]);
  useEffect(() => {
    let timer, over = false;
    const poll = async () => {
      const began = performance.now();
      if (!document.hidden) {
        try {
          const now = look(parse(await (await send("GET", "metrics")).text()), performance.now());
          if (looks.current.length && now.answered < looks.current.at(-1).answered) looks.current = [];  // started again
          looks.current = [...looks.current, now].slice(-KEPT);
          if (!over) setState({ up: true, last: now, points: points(looks.current), perMinute: rates(looks.current) });
        } catch {
          if (!over) setState((old) => ({ ...old, up: false }));
        }
      }
      if (!over) timer = setTimeout(poll, Math.max(EVERY_MS, REST * (performance.now() - began)));
    };
    poll();
    return () => { over = true; clearTimeout(timer); };
  }, []);
  return state;
}

function points(looks) {
  let latency = null;  // while nothing is answered, that of the answers before
  return looks.map((now, index) => {
    const before = looks[index - 1];
    const answered = before ? now.answered - before.answered : 0;
    if (answered > 0) latency = (now.seconds - before.seconds) / answered;
    return { latency, waiting: now.waiting, flying: now.flying };
  });
}

function rates(looks) {
  const now = looks.at(-1), first = looks.find((each) => now.at - each.at <= MINUTE_MS) ?? now;
  const minutes = (now.at - first.at) / MINUTE_MS;
  return new Map([...now.adapters].map(([name, { requests }]) => {
    const came = requests - (first.adapters.get(name)?.requests ?? 0);
    return [name, minutes > 0 ? came / Math.max(minutes, 1 / 6) : 0];
  }));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

function Line({ values }) {
  const wide = 64, high = 18, most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  let begun = false;
  const path = values.map((value, index) => {
    if (value === null) return "";
    const x = wide - (values.length - 1 - index) * (wide / (KEPT - 1)), y = high - 1 - (value / most) * (high - 3);
    const step = `${begun ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    begun = true;
    return step;
  }).join("");
  return html`<svg class="line" viewBox="0 0 ${wide} ${high}" width=${wide} height=${high} aria-hidden="true">
    <path d=${path || "M0 0"} /></svg>`;
}

export function Figures({ figures }) {
  const { points: all, last, up } = figures;
  const latency = all.at(-1)?.latency ?? null;
  const shown = [
    ["Latency", "mean of the last answers", duration(latency), all.map((each) => each.latency)],
    ["Queue", "requests that wait", last ? String(last.waiting) : "–", all.map((each) => each.waiting)],
    ["In flight", "requests accepted and not yet answered", last ? String(last.flying) : "–", all.map((each) => each.flying)],
  ];
  return html`<dl class="figures" data-up=${up}>${shown.map(([name, title, value, values]) => html`
    <div key=${name} title=${title}><dt>${name}</dt><dd>${value}</dd><dd class="drawn"><${Line} values=${values} /></dd></div>`)}</dl>`;
}
