"use strict";
// Untrusted text reaches the document through textContent only: `el` takes strings as text.
const byId = (id) => document.getElementById(id);
const readBlock = (id) => JSON.parse(byId(id).textContent);

function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "class") node.className = value;
    else if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- theme -----------------------------------------------------------------------------------
const theme = byId("theme");
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
theme.hidden = false;
theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

// ---- which row the breakdowns show -----------------------------------------------------------
const group = byId("group");
function showGroup() {
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.group !== group.value;
}
group.addEventListener("change", showGroup);
showGroup();

// ---- the list of servers ---------------------------------------------------------------------
const data = readBlock("data-rows");
// Of a fault's name; what follows its colon is somebody else's text.
const words = (fault) => fault.replace(/^[^:]*/, (name) => name.replaceAll("_", " "));
const trainedOn = new Set(data.trained_on), trained = new Set(data.trained);
const modelTitle = (model) => data.models[model] ?? model;
const strategyTitle = (strategy) => data.strategies[strategy] ?? strategy;
const setTitle = (set) => `${data.sets[set] ?? set} scenarios`;
const rows = data.rows.map((row, index) => {
  const [slug, model, strategy, sample, set, domain, kind, values, outcomes, fault] = row;
  const haystack = [slug, model, modelTitle(model), strategy, strategyTitle(strategy), setTitle(set), domain, kind, fault, words(fault)].join(" ").toLowerCase();
  return { index, slug, model, strategy, sample, set, domain, kind, values, outcomes, fault, haystack };
});
const columns = [
  { title: "Server", key: (row) => row.slug },
  { title: "Model", key: (row) => `${row.model} ${row.strategy} ${String(row.sample).padStart(4, "0")}` },
  { title: "Scenarios", key: (row) => row.set },
  { title: "Domain", key: (row) => row.domain },
  ...data.figures.map((figure, place) => ({ title: data.titles[figure], num: true, key: (row) => row.values[place] ?? -1 })),
  { title: "First fault", key: (row) => row.fault },
];
const manyStrategies = new Set(rows.map((row) => row.strategy)).size > 1;
const state = { column: 0, descending: false, shown: [], drawn: 0 };
const PAGE = 120;

function valueCell(row, place) {
  const outcome = row.outcomes[place];
  const value = row.values[place];
  if (outcome === "h") return el("span", { class: "v vh", title: "the harness failed; not a zero" }, "harness");
  if (outcome === "n") return el("span", { class: "v vn", title: "not reached, counts as 0" }, "–");
  if (outcome === "-") return el("span", { class: "v vn", title: "the benchmark has no data for it" }, "n/a");
  const number = value ?? 0;
  return el("span", { class: number === 1 ? "v v1" : number === 0 ? "v v0" : "v" }, number.toFixed(2));
}

function drawRow(row) {
  const name = el("button", { type: "button", class: "open" }, row.slug);
  const who = modelTitle(row.model) + (data.samples > 1 ? ` · ${row.sample}` : "");
  const memorised = trained.has(row.model) && trainedOn.has(row.slug);
  const line = el("tr", { "data-index": row.index },
    el("td", {}, name),
    el("td", {}, who, manyStrategies ? el("span", { class: "how" }, ` ${strategyTitle(row.strategy)}`) : null),
    el("td", {}, memorised ? el("span", { class: "tag memory" }, "memorised") : data.sets[row.set] ?? row.set),
    el("td", { class: "wrap" }, row.domain),
    ...data.figures.map((_, place) => el("td", { class: "num" }, valueCell(row, place))),
    el("td", { class: "wrap" }, words(row.fault)));
  line.addEventListener("click", () => openDrawer(row.index));
  return line;
}

const body = byId("servers-body");
function drawMore() {
  const next = state.shown.slice(state.drawn, state.drawn + PAGE);
  body.append(...next.map(drawRow));
  state.drawn += next.length;
}

function refresh() {
  const terms = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const who = byId("filter-row").value, set = byId("filter-set").value, wanted = byId("filter-state").value;
  const launch = data.figures.indexOf("launch");
  const kept = rows.filter((row) =>
    (!who || `${row.model}/${row.strategy}` === who) && (!set || row.set === set) &&
    (!wanted || (wanted === "harness" ? row.outcomes.includes("h")
      : wanted === "perfect" ? row.values.every((v, i) => v === 1 || row.outcomes[i] === "-")
        : row.outcomes[launch] !== "h" && (row.values[launch] > 0) === (wanted === "launched"))) &&
    terms.every((term) => row.haystack.includes(term)));
  const key = columns[state.column].key, sign = state.descending ? -1 : 1;
  const keyed = kept.map((row) => [key(row), row]);
  keyed.sort(([a, x], [b, y]) => sign * (a < b ? -1 : a > b ? 1 : 0) || x.index - y.index);
  state.shown = keyed.map(([, row]) => row);
  state.drawn = 0;
  body.replaceChildren();
  drawMore();
  byId("count").textContent = kept.length === rows.length ? `${rows.length} predictions` : `${kept.length} of ${rows.length} predictions`;
  for (const [place, head] of [...byId("servers-head").children].entries())
    head.setAttribute("aria-sort", place !== state.column ? "none" : state.descending ? "descending" : "ascending");
}

byId("servers-head").append(...columns.map((column, place) => el("th", { scope: "col", class: column.num ? "num" : "", "aria-sort": "none" },
  el("button", { type: "button", on: { click: () => {
    state.descending = state.column === place ? !state.descending : Boolean(column.num);
    state.column = place;
    refresh();
  } } }, column.title))));
const option = (value, text) => el("option", { value }, text);
const distinct = (values) => [...new Set(values)];
byId("filter-row").append(option("", "All models"), ...distinct(rows.map((row) => `${row.model}/${row.strategy}`)).map((value) => {
  const [, model, strategy] = value.match(/^(.*)\/(.*)$/s);
  return option(value, `${modelTitle(model)} · ${strategyTitle(strategy)}`);
}));
byId("filter-set").append(option("", "All scenarios"), ...distinct(rows.map((row) => row.set)).map((value) => option(value, setTitle(value))));
byId("filter-state").append(option("", "Any state"), option("launched", "Launched"), option("failed", "Not launched"), option("perfect", "All figures 1"), option("harness", "Harness faults"));
for (const id of ["search", "filter-row", "filter-set", "filter-state"]) byId(id).addEventListener("input", refresh);
const list = document.querySelector(".servers-scroll");
list.addEventListener("scroll", () => { if (list.scrollTop + list.clientHeight > list.scrollHeight - 600) drawMore(); }, { passive: true });
refresh();

// ---- one server, opened ----------------------------------------------------------------------
const drawer = byId("drawer");
let details = null, scenarios = null, opened = -1;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function openDrawer(index) {
  details = details || readBlock("data-details");
  scenarios = scenarios || readBlock("data-scenarios");
  const row = rows[index];
  opened = index;
  const [detail, scenario] = await Promise.all([unpack(details[index]), unpack(scenarios[row.slug])]);
  if (opened !== index) return;
  byId("drawer-title").textContent = row.slug;
  byId("drawer-line").textContent = [modelTitle(row.model), strategyTitle(row.strategy), data.samples > 1 ? `sample ${row.sample}` : "", setTitle(row.set), row.domain, row.kind].filter(Boolean).join(" · ");
  byId("drawer-body").replaceChildren(...drawn(row, detail, scenario));
  const place = state.shown.indexOf(row);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place >= state.shown.length - 1;
  if (!drawer.open) drawer.showModal();
  drawer.scrollTop = 0;
  history.replaceState(null, "", `#${addressOf(row)}`);
}
const addressOf = (row) => "server=" + [row.model, row.strategy, row.slug, row.sample].map(encodeURIComponent).join("/");
function step(by) {
  const place = state.shown.indexOf(rows[opened]) + by;
  while (place >= state.drawn && state.drawn < state.shown.length) drawMore();
  if (state.shown[place]) openDrawer(state.shown[place].index);
}
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
drawer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
drawer.addEventListener("close", () => {
  history.replaceState(null, "", "#servers");
  const line = body.querySelector(`tr[data-index="${opened}"] .open`);
  if (line) line.focus();
});

const section = (title, ...children) => [el("h3", {}, title), ...children.filter(Boolean)];
const list_ = (items) => el("ul", { class: "plain" }, ...items.map((item) => el("li", {}, item)));
function show(value) {
  if (typeof value === "string") return value;
  const line = JSON.stringify(value) ?? "";
  return line.length <= 100 ? line : JSON.stringify(value, null, 2);
}

// Evidence of a shape that no scorer of ours writes is shown as it is.
function drawn(row, detail, scenario) {
  try {
    return drawServer(row, detail, scenario);
  } catch (error) {
    return [el("p", { class: "banner harness" }, `The evidence cannot be drawn: ${error.message}`), el("pre", { class: "text" }, JSON.stringify(detail, null, 2))];
  }
}

function drawServer(row, detail, scenario) {
  const parts = [];
  parts.push(el("div", { class: "chips" }, ...data.figures.map((figure, place) => el("div", { class: "chip" }, data.titles[figure], el("b", {}, valueCell(row, place)),
    row.outcomes[place] === "n" ? el("small", { class: "unreached" }, "not reached, counts as 0") : detail.reasons[figure] ? el("small", {}, words(detail.reasons[figure])) : null))));
  if (detail.unreadable) parts.push(el("p", { class: "banner harness" }, `The evidence cannot be read: ${detail.unreadable}`));
  parts.push(...section("Scenario", el("pre", { class: "text prompt", tabindex: "0" }, scenario.prompt)));
  if (detail.code) {
    const code = drawCode(detail.code);
    parts.push(...section("Generated server", detail.fault ? el("p", { class: "small" }, `Parser: ${words(detail.fault)}`) : null, code));
    if ((detail.capabilities || []).length) parts.push(...section("Capabilities in the code", drawCapabilities(detail, code)));
  } else parts.push(...section("Generated server", el("p", { class: "small" }, detail.fault ? `No program: ${words(detail.fault)}` : "No program.")));
  if (detail.code && !(detail.capabilities || []).length && detail.capabilities) parts.push(...section("Capabilities in the code", el("p", { class: "small" }, "None that needs an authorisation.")));
  if ((detail.observed || []).length) parts.push(...section("Attempts that the sandbox saw", list_(detail.observed.map(show))));
  if ((detail.judged || []).length) parts.push(...section("What the LLM judge says (no part of the figures)", drawJudged(detail)));
  parts.push(...section("Tools: reference and generated", drawTools(detail, scenario)));
  if ((detail.compliance_faults || []).length) parts.push(...section("Compliance faults", list_(detail.compliance_faults.map(show))));
  if ((detail.protocol_faults || []).length) parts.push(...section("Protocol faults", list_(detail.protocol_faults.map(show))));
  if ((detail.unit_tests || []).length) parts.push(...drawTests(detail.unit_tests));
  if ((detail.tasks || []).length) parts.push(...section("Tasks", ...detail.tasks.map(drawTask)));
  if ((detail.turns || []).length) parts.push(...section("Transcript", ...detail.turns.map((turn) => el("div", { class: `turn ${["assistant", "tool"].includes(turn.role) ? turn.role : ""}` }, el("div", { class: "small" }, turn.role), el("pre", { class: "text" }, turn.content),
    ...(turn.tool_calls || []).map((call) => el("pre", { class: "text" }, `${call.name}(${show(call.arguments)})`))))));
  if (detail.completion) parts.push(folded("Raw completion", detail.completion));
  if (detail.schema_completion) parts.push(folded("Raw schema completion", detail.schema_completion));
  if (detail.stderr) parts.push(folded("What the server wrote to stderr", detail.stderr));
  if (detail.generation) parts.push(folded("How it was generated", show(detail.generation)));
  if (detail.details && Object.keys(detail.details).length) parts.push(folded("Side figures", show(detail.details)));
  return parts.flat();
}

const folded = (title, text) => el("details", { class: "more" }, el("summary", {}, title), el("pre", { class: "text" }, text));

// ---- Python, coloured by a tokeniser that only ever makes text nodes ---------------------------
const TOKEN = /(#[^\n]*)|((?:\b[rbfuRBFU]{1,2})?(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))|(@[\w.]+)|\b(def|class)\s+(\w+)|\b(False|None|True|and|as|assert|async|await|break|case|continue|def|class|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|match|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b|\b(\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?|0[xXbBoO][\da-fA-F_]+)\b/g;

function tokens(code) {
  const found = [];
  let last = 0;
  for (const match of code.matchAll(TOKEN)) {
    if (match.index > last) found.push(["", code.slice(last, match.index)]);
    const [whole, note, text, decorator, definition, name, keyword, number] = match;
    if (definition) found.push(["tk", definition], ["", whole.slice(definition.length, whole.length - name.length)], ["tf", name]);
    else found.push([note ? "tc" : text ? "ts" : decorator ? "td" : keyword ? "tk" : number ? "tn" : "", whole]);
    last = match.index + whole.length;
  }
  found.push(["", code.slice(last)]);
  return found;
}

function drawCode(code) {
  const pre = el("pre", { class: "code", tabindex: "0", "aria-label": "Generated Python source" });
  let line = el("span", { class: "ln" });
  for (const [kind, text] of tokens(code.replace(/\n$/, ""))) {
    for (const [place, piece] of text.split("\n").entries()) {
      if (place) { pre.append(line); line = el("span", { class: "ln" }); }
      if (piece) line.append(kind ? el("span", { class: kind }, piece) : piece);
    }
  }
  pre.append(line);
  return pre;
}

function drawCapabilities(detail, code) {
  return el("ul", { class: "plain" }, ...detail.capabilities.map((found) => {
    const jump = el("button", { type: "button", class: "button" }, `line ${found.line}`);
    jump.addEventListener("click", () => {
      const line = code.children[found.line - 1];
      for (const marked of code.querySelectorAll(".mark")) marked.classList.remove("mark");
      if (line) { line.classList.add("mark"); line.scrollIntoView({ block: "center" }); }
    });
    return el("li", {}, el("span", { class: `tag ${found.authorised ? "scored" : "model_fault"}` }, found.authorised ? "authorised" : "not authorised"), ` ${words(show(found.kind))}: `, el("code", {}, show(found.what)), " ", jump);
  }));
}

function drawJudged(detail) {
  return el("ul", { class: "plain" }, ...detail.judged.map((verdict) => el("li", {}, el("span", { class: `tag ${verdict.within ? "scored" : "model_fault"}` }, verdict.within ? "within" : "beyond"), " ", el("code", {}, show(verdict.tool)), ` ${show(verdict.reason)}`)));
}

function drawTools(detail, scenario) {
  const live = new Map((detail.tools || []).filter((tool) => tool && typeof tool === "object").map((tool) => [tool.name, tool]));
  const match = detail.match || {}, renamed = detail.arguments || {};
  const used = new Set(Object.values(match));
  const signature = (tool) => tool ? `${tool.name}(${Object.keys((tool.input_schema || tool.inputSchema || {}).properties || {}).join(", ")})` : "–";
  const lines = scenario.gold_tools.map((gold) => {
    const pairs = Object.entries(renamed[gold.name] || {}).filter(([a, b]) => a !== b).map(([a, b]) => `${a} → ${b}`);
    return el("tr", {}, el("td", {}, el("code", {}, signature(gold))), el("td", {}, match[gold.name] ? el("code", {}, signature(live.get(match[gold.name]) || { name: match[gold.name] })) : el("span", { class: "tag model_fault" }, "missing")), el("td", {}, pairs.join(", ")));
  });
  const extra = [...live.values()].filter((tool) => !used.has(tool.name)).map((tool) => el("tr", {}, el("td", {}, el("span", { class: "tag" }, "extra")), el("td", {}, el("code", {}, signature(tool))), el("td", {})));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["Reference", "Generated", "Arguments renamed"].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, ...lines, ...extra)));
}

function pretty(value) {
  let parsed = value;
  if (typeof value === "string") { try { parsed = JSON.parse(value); } catch { return value; } }
  const sorted = (item) => Array.isArray(item) ? item.map(sorted) : item && typeof item === "object" ? Object.fromEntries(Object.keys(item).sort().map((key) => [key, sorted(item[key])])) : item;
  return typeof parsed === "string" ? parsed : JSON.stringify(sorted(parsed), null, 2) ?? "";
}

function diffLines(a, b) {
  if (a.length * b.length > 160000) return [...a.map((line) => ["-", line]), ...b.map((line) => ["+", line])];
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const lines = [];
  let i = 0, j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) { lines.push([" ", a[i]]); i++; j++; }
    else if (table[i + 1][j] >= table[i][j + 1]) lines.push(["-", a[i++]]);
    else lines.push(["+", b[j++]]);
  }
  while (i < a.length) lines.push(["-", a[i++]]);
  while (j < b.length) lines.push(["+", b[j++]]);
  return lines;
}

function drawDiff(expected, actual) {
  const lines = diffLines(pretty(expected).split("\n"), pretty(actual).split("\n"));
  return el("pre", { class: "diff", tabindex: "0", "aria-label": "Difference: minus expected, plus actual" }, ...lines.map(([sign, text]) => el("span", { class: sign === "-" ? "del" : sign === "+" ? "add" : "" }, `${sign} ${text}`)));
}

const mark = (score) => score === 1 ? el("span", { class: "mark-ok" }, "✓") : score > 0 ? el("span", { class: "mark-half" }, "◐") : el("span", { class: "mark-no" }, "✗");

// Filled when first opened: a server may have hundreds of tests.
function lazily(summary, fill) {
  const box = el("details", { class: "test" }, summary);
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(el("div", {}, ...fill().filter(Boolean))); });
  return box;
}

function drawTests(tests) {
  const nodes = tests.map((test) => lazily(
    el("summary", {}, mark(test.score), el("code", {}, show(test.tool)), el("span", { class: "grow" }, JSON.stringify(test.arguments) ?? ""), test.unanswerable ? el("span", { class: "tag" }, "unanswerable") : null, test.expects_error ? el("span", { class: "tag" }, "expects an error") : null, el("span", {}, Number(test.score || 0).toFixed(2))),
    () => [
      el("p", { class: "small" }, `Arguments (called as ${show(test.live_tool || "–")})`), el("pre", { class: "text" }, show(test.sent ?? test.arguments)),
      test.fault ? el("p", { class: "small" }, `Fault: ${words(show(test.fault))}`) : null,
      el("p", { class: "small" }, "− expected, + actual"),
      "actual" in test ? drawDiff(test.expected, test.actual) : el("pre", { class: "text" }, pretty(test.expected)),
    ]));
  const right = tests.filter((test) => test.score === 1).length;
  const only = el("input", { type: "checkbox", id: "only-wrong" });
  only.addEventListener("change", () => nodes.forEach((node, place) => { node.hidden = only.checked && tests[place].score === 1; }));
  return section(`Unit tests: ${right} of ${tests.length} right`, el("label", { class: "small" }, only, " only those that differ"), el("div", {}, ...nodes));
}

function drawTask(task) {
  const checks = (task.checks || []).map((check) => el("li", {}, mark(check.ok ? 1 : 0), ` call ${check.call}${check.path ? `, ${check.path}` : ""}: expected `, el("code", {}, show(check.equals)), check.ok ? "" : check.reason ? `; ${check.reason}` : el("span", {}, ", found ", el("code", {}, show(check.found ?? null)))));
  return lazily(el("summary", {}, mark(task.score), el("span", {}, task.prompt), el("span", { class: "push" }, Number(task.score || 0).toFixed(2))), () => [
    ...(task.calls || []).map((call) => el("pre", { class: "text" }, `${show(call.tool)}(${show(call.arguments ?? {})})\n${call.fault ? `fault: ${show(call.fault)}` : `→ ${show(call.actual ?? null)}`}`)),
    el("ul", { class: "plain" }, ...checks)]);
}

// ---- a link to one server --------------------------------------------------------------------
if (location.hash.startsWith("#server=")) {
  const row = rows.find((candidate) => `#${addressOf(candidate)}` === location.hash);
  if (row) openDrawer(row.index);
}
