// The sync log: what was, page by page, and what comes, as it comes.

const ENTRIES_PER_PAGE = 50;
/** While more come, no more than this stay on the page, and what was asked for; older ones can be asked for again. */
const ENTRIES_KEPT = 60;
const OUTCOMES = { applied: { kind: "ok", word: "applied" }, failed: { kind: "bad", word: "failed" }, stopped: { kind: "stopped", word: "stopped" } };

let entriesKept = ENTRIES_KEPT;
let logNext = null;
let logRound = 0;
let newestEntry = 0;
/** What comes while a page is loaded, which may or may not have it. */
let comingEntries = null;
/** The log of an engine that was restarted, or a first look, has to be loaded. */
let isLogLoaded = false;

function logFilter() {
  const at = (id) => ($(id).value ? new Date($(id).value) : null);
  return {
    sink: $("log-sink").value, table: $("log-table").value, key: keyIn($("log-key")), outcome: $("log-outcome").value,
    since: at("log-since"), until: at("log-until"),
  };
}

/** Whether it fits, but for the key. */
function passes(entry, { sink, table, outcome, since, until }) {
  const ended = entry.ended_micros / 1000;
  return (!sink || entry.sink === sink) && (!table || Object.hasOwn(entry.tables, table)) && (!outcome || entry.outcome === outcome)
    && (!since || ended >= since.getTime()) && (!until || ended < until.getTime());
}

function entryItem(entry) {
  const { kind, word } = OUTCOMES[entry.outcome] ?? { kind: "unknown", word: entry.outcome };
  const ended = new Date(entry.ended_micros / 1000);
  const letters = entry.dead_letters > 0 ? `, ${many(entry.dead_letters, "dead letter")}` : "";
  const attempts = entry.outcome === "applied" && entry.attempts <= entry.batches ? "" : `, ${many(entry.attempts, "attempt")}`;
  const what = entry.outcome === "applied"
    ? `${many(entry.changes, "row")} in ${many(entry.transactions, "transaction")}${letters}, ${many(entry.batches, "batch", "batches")}${attempts}`
    : many(entry.attempts, "attempt in a row", "attempts in a row");
  return h("li", { class: "entry", "data-id": entry.id },
    h("time", { datetime: ended.toISOString() }, time(ended)),
    h("span", { class: "badge" }, mark(kind), h("span", null, word)),
    foreign(entry.sink, { class: "text strong" }),
    h("span", null, what),
    h("span", { class: "quiet-text" }, entry.outcome === "applied" ? milliseconds(entry.took_micros) : ""),
    h("span", { class: "quiet-text lsn" }, entry.lsn ?? ""),
    entry.problem ? foreign(entry.problem, { class: "text reason" }) : null);
}

async function loadLog(before = null) {
  const round = ++logRound;
  if (!before) comingEntries = [];
  const { sink, table, key, outcome, since, until } = logFilter();
  const query = new URLSearchParams({ limit: ENTRIES_PER_PAGE });
  if (sink) query.set("sink", sink);
  if (table) query.set("table", table);
  if (key) query.set("key", key);
  if (outcome) query.set("outcome", outcome);
  if (since) query.set("since", since.toISOString());
  if (until) query.set("until", until.toISOString());
  if (before) query.set("before", before);
  let page;
  try {
    // Whether a row is there is nobody's business who may not see it.
    page = await (key ? request : send)("GET", `/logs?${query}`);
  } catch (error) {
    comingEntries = null;
    setText($("log-note"), error instanceof Refusal ? error.text : error instanceof Declined ? "Without the secret, no row is looked for." : "The log cannot be read now.");
    return;
  }
  // The filter may have changed meanwhile.
  if (round !== logRound) return;
  isLogLoaded = true;
  const items = page.entries.map(entryItem);
  entriesKept = before ? entriesKept + ENTRIES_PER_PAGE : ENTRIES_KEPT;
  if (before) $("log-list").append(...items);
  else {
    $("log-list").replaceChildren(...items);
    newestEntry = page.entries[0]?.id ?? 0;
    const came = comingEntries ?? [];
    comingEntries = null;
    addEntries(came);
  }
  logNext = page.next;
  show($("log-more"), logNext !== null);
  const unknown = page.unknown > 0
    ? `${page.unknown === 1 ? "1 entry of this table does not say" : `${count(page.unknown)} entries of this table do not say`} which rows were touched.` : "";
  setText($("log-note"), [$("log-list").children.length === 0 ? "There is nothing yet that fits." : "", unknown].join(" ").trim());
}

/** New entries, the oldest first. */
function addEntries(entries) {
  if (comingEntries !== null) {
    comingEntries.push(...entries);
    return;
  }
  const filter = logFilter();
  if (filter.key) {
    // Which rows they touched, only the log itself can tell.
    if (entries.some((entry) => entry.id > newestEntry && passes(entry, filter))) loadLog();
    return;
  }
  for (const entry of entries) {
    if (entry.id <= newestEntry || !passes(entry, filter)) continue;
    newestEntry = entry.id;
    $("log-list").prepend(entryItem(entry));
    setText($("log-note"), "");
  }
  const list = $("log-list").children;
  while (list.length > entriesKept) {
    list[list.length - 1].remove();
    logNext = Number(list[list.length - 1].dataset.id);
    show($("log-more"), true);
  }
}

$("log-table").addEventListener("change", () => showKeyFields($("log-key"), $("log-table").value));
$("log-form").addEventListener("change", () => void loadLog());
// The fields are empty only after this event.
$("log-form").addEventListener("reset", () => setTimeout(() => {
  $("log-key").replaceChildren();
  void loadLog();
}));
$("log-form").addEventListener("submit", (event) => event.preventDefault());
$("log-more").addEventListener("click", () => act($("log-more"), () => loadLog(logNext)));
