"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const ROW = 48, SPARE = 8;
const $ = (id) => document.getElementById(id);
const concepts = new Map();
for (const c of data.about.concepts) concepts.set(c.feature, [...(concepts.get(c.feature) || []), c]);

// text always goes in as text: a prompt cannot become markup
function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) key === "onclick" ? (node.onclick = value) : node.setAttribute(key, value);
  node.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return node;
}
const num = (x) => (x === null || x === undefined ? "–" : Math.abs(x) >= 100 ? x.toFixed(0) : Number(x).toPrecision(3));
const percent = (x) => (100 * x).toFixed(x < 0.1 ? 1 : 0) + "%";

const entries = data.features.map((f) => ({
  f, best: Math.max(0, ...(concepts.get(f.number) || []).map((c) => c.auroc)),
  text: [f.label, "#" + f.number, ...f.tops.map((t) => t.token), ...f.promoted.map((t) => t[0]), ...f.suppressed.map((t) => t[0]),
    ...f.neurons.map((n) => "n" + n[0]), ...(concepts.get(f.number) || []).map((c) => c.concept)].join(" ").toLowerCase(),
}));
const orders = {
  size: (a, b) => b.f.size - a.f.size, firing: (a, b) => b.f.firing - a.f.firing, rare: (a, b) => a.f.firing - b.f.firing,
  peak: (a, b) => b.f.peak - a.f.peak, auroc: (a, b) => b.best - a.best, number: (a, b) => a.f.number - b.f.number,
  label: (a, b) => a.f.label.localeCompare(b.f.label),
};
let shown = [], chosen = null;

function refresh() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = entries.filter((e) => words.every((w) => e.text.includes(w))).sort(orders[$("sort").value]);
  $("count").textContent = shown.length + " of " + entries.length;
  $("list").scrollTop = 0;
  draw();
}

// only the rows in sight exist
function draw() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  const area = el("div", { style: "height:" + shown.length * ROW + "px" });
  for (let i = first; i < last; i++) area.append(row(shown[i], i));
  list.replaceChildren(area);
}
function row(entry, i) {
  const f = entry.f, found = concepts.get(f.number) || [];
  const under = found.length ? "detects " + found.map((c) => c.concept).join(", ") : f.tops.slice(0, 6).map((t) => t.token.trim()).join(" · ");
  return el("div", { class: "row" + (chosen === f.number ? " on" : ""), style: "top:" + i * ROW + "px", onclick: () => open(f.number) },
    el("span", { class: "n" }, "#" + f.number), el("span", { class: "t" }, el("b", {}, f.label), el("small", {}, under)),
    el("span", { class: "v" }, percent(f.firing)));
}
function open(number) {
  chosen = number;
  history.replaceState(null, "", "#" + number);
  $("one").replaceChildren(...feature(data.features[number]));
  $("one").scrollTop = 0;
  draw();
}
function feature(f) {
  const found = concepts.get(f.number) || [];
  return [
    el("h2", {}, "#" + f.number + "  " + f.label),
    el("p", { class: "facts" }, `fires on ${percent(f.firing)} of tokens (above a tenth of its peak of ${num(f.peak)}); size ${num(f.size)}; activations are in units of its root mean square`),
    el("p", { class: "facts" }, "steer with it: ", el("code", {}, `trimtab steer ${data.about.ref}:${f.number} "Tell me a story." --kl 0.3`)),
    found.length ? el("h3", {}, "Detects") : null, found.length ? detected(found) : null,
    el("h3", {}, "Top activating tokens"), ...f.tops.map((t) => context(t, f.peak)),
    el("div", { class: "two" },
      el("div", {}, el("h3", {}, "Promotes"), tokens(f.promoted)), el("div", {}, el("h3", {}, "Suppresses"), tokens(f.suppressed))),
    el("h3", {}, "Core neurons"), el("div", { class: "chips" }, f.neurons.map((n) => chip("n" + n[0], num(n[1]), () => search("n" + n[0])))),
    el("h3", {}, "Nearest features"), el("div", { class: "chips" }, f.nearest.map((n) => chip("#" + n[0] + " " + data.features[n[0]].label, `cos ${num(n[1])}, ${n[2]} neurons shared`, () => open(n[0])))),
    ...family(f.number),
  ].filter(Boolean);
}
function context(t, peak) {
  const share = 0.15 + 0.85 * Math.min(1, t.activation / peak);
  return el("div", { class: "context" }, el("span", { class: "a" }, num(t.activation)), t.before,
    el("mark", { style: `background:rgba(var(--mark),${share.toFixed(2)})` }, t.token), t.after);
}
const chip = (text, small, onclick) => el(onclick ? "a" : "span", onclick ? { class: "chip", onclick } : { class: "chip" }, text, el("small", {}, small));
const tokens = (list) => (list.length ? el("div", { class: "chips" }, list.map((t) => chip(t[0].replace(/\n/g, "⏎"), num(t[1])))) : el("p", { class: "facts" }, "not read at this site"));
function search(text) { $("search").value = text; refresh(); }
function detected(list) {
  const rows = list.map((c) => el("tr", {}, el("td", {}, c.concept), el("td", { class: c.beats_null ? "good" : "bad" }, num(c.auroc)), el("td", {}, `${num(c.low)} – ${num(c.high)}`),
    el("td", {}, `${num(c.null)} (${num(c.null_p95)})`), el("td", {}, `${c.n[0]} / ${c.n[1]}`), el("td", {}, el("a", { class: "chip", onclick: () => open(c.feature) }, "#" + c.feature))));
  const head = ["concept", "held-out AUROC", "95%", "shuffled labels, mean (95th)", "sentences", "feature"].map((h) => el("th", {}, h));
  return el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}
const name = (level, n) => (level === 0 ? "#" + n + " " + data.features[n].label : `level ${level} · ${n}`);
function family(number) {
  const parents = (data.tree[0] || []).filter((b) => b.children.includes(number));
  return parents.length ? [el("h3", {}, "In the hierarchy"), ...parents.map((b) => branch(b, 0))] : [];
}
function branch(b, level) {
  const children = b.children.map((c, i) => chip(name(level, c), num(b.weights[i]), level === 0 ? () => open(c) : null));
  const shared = b.shared.length ? "neurons in common: " + b.shared.slice(0, 12).map((n) => "n" + n).join(" ") + (b.shared.length > 12 ? ` and ${b.shared.length - 12} more` : "") : "no neuron in common";
  return el("div", { class: "branch" }, el("b", {}, `level ${level + 1} · ${b.parent}`), el("div", { class: "chips" }, children), el("p", {}, shared));
}
function hierarchy() {
  chosen = null;
  const parts = [el("h2", {}, "Hierarchy"), el("p", { class: "facts" }, "Each level factorises the features below it; a parent is a nonnegative mixture of its children.")];
  if (!data.tree.length) parts.push(el("p", {}, "This set was made without levels; name some in the recipe (features.levels)."));
  for (let level = data.tree.length - 1; level >= 0; level--) parts.push(el("h3", {}, `Level ${level + 1}`), ...data.tree[level].map((b) => branch(b, level)));
  $("one").replaceChildren(...parts); draw();
}
function overview() {
  chosen = null;
  const parts = [el("h2", {}, "Overview")], m = data.about.metrics || {};
  parts.push(el("p", { class: "facts" }, Object.entries(m).map(([k, v]) => `${k} ${typeof v === "number" ? num(v) : v}`).join(" · ")));
  if (data.about.concepts.length) parts.push(el("h3", {}, "Concepts"), detected(data.about.concepts));
  if (data.curve.length) parts.push(el("h3", {}, "Rank and sparsity"), curve());
  $("one").replaceChildren(...parts); draw();
}
function curve() {
  const head = ["rank", "kept", "explained", "held out", "stability", "score"].map((h) => el("th", {}, h));
  const best = Math.max(...data.curve.map((c) => c.score));
  const rows = data.curve.map((c) => el("tr", { class: c.score === best ? "good" : "" }, [c.rank, c.sparsity === null ? "all" : percent(c.sparsity), num(c.explained), num(c.held_out), num(c.stability), num(c.score)].map((v) => el("td", {}, String(v)))));
  return el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}

$("facts").textContent = `${data.about.rows} rows; kept share ${data.about.settings.sparsity ?? "all"}; from ${data.about.parents.join(", ")}`;
$("search").oninput = refresh;
$("sort").onchange = refresh;
$("tree").onclick = hierarchy;
$("overview").onclick = overview;
$("list").onscroll = () => requestAnimationFrame(draw);
window.onresize = draw;
document.onkeydown = (e) => {
  if (e.target === $("search")) { if (e.key === "Escape") search(""); return; }
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[e.key];
  if (e.key === "/") { $("search").focus(); e.preventDefault(); }
  if (!step || e.target.tagName === "SELECT") return;
  const at = shown.findIndex((s) => s.f.number === chosen), next = shown[Math.max(0, Math.min(shown.length - 1, at + step))];
  if (next) { open(next.f.number); const top = shown.indexOf(next) * ROW, l = $("list"); if (top < l.scrollTop) l.scrollTop = top; if (top + ROW > l.scrollTop + l.clientHeight) l.scrollTop = top + ROW - l.clientHeight; }
  e.preventDefault();
};
refresh();
const asked = Number(location.hash.slice(1));
location.hash === "#hierarchy" ? hierarchy() : location.hash.length > 1 && data.features[asked] ? open(asked) : overview();
