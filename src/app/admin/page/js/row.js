// Where is my row: the row at the source and in every region.

const VERDICTS = {
  equal: { kind: "ok", word: "Equal" },
  "on-its-way": { kind: "behind", word: "On its way" },
  "dead-letter": { kind: "bad", word: "Dead letter" },
  "not-live": { kind: "behind", word: "Table not live" },
  differs: { kind: "bad", word: "Differs" },
  changing: { kind: "unknown", word: "Changing" },
  unknown: { kind: "unknown", word: "Cannot be read" },
};

let rowTables = [];

function showRowForm({ tables }) {
  const changed = JSON.stringify(tables.map(({ name, key }) => [name, key]));
  if ($("row-form").dataset.tables === changed) return;
  $("row-form").dataset.tables = changed;
  rowTables = tables;
  setOptions($("row-table"), tables.map(({ name }) => ({ value: name, text: name })));
  showKeyFields($("row-key"), $("row-table").value, { required: true });
  setOptions($("log-table"), [{ value: "", text: "all" }, ...tables.map(({ name }) => ({ value: name, text: name }))]);
  showKeyFields($("log-key"), $("log-table").value);
}

/** One field for each column of the table's key. */
function showKeyFields(container, chosen, attributes) {
  const table = rowTables.find(({ name }) => name === chosen);
  const fields = (table?.key ?? []).map((column) => h("label", { class: "field" },
    h("span", null, foreign(column)),
    h("input", { type: "text", spellcheck: "false", autocapitalize: "off", autocomplete: "off", dir: "auto", ...attributes })));
  container.replaceChildren(...fields);
}

/** The key in these fields as a request writes it; empty where a part of it is. */
function keyIn(container) {
  const key = [...container.querySelectorAll("input")].map((input) => input.value);
  if (key.includes("")) return "";
  return key.length > 1 ? JSON.stringify(key) : key[0] ?? "";
}

function shownValue(value) {
  if (value === null) return h("span", { class: "quiet-text" }, "NULL");
  return foreign(typeof value === "string" ? value : JSON.stringify(value), { dir: "auto", class: "text value" });
}

/** What may have to be scrolled has to be reached by keyboard. */
const isLong = (value) => (JSON.stringify(value) ?? "").length > 200;

function rowValues(row, differing = []) {
  if (row === null) return h("p", { class: "quiet-text" }, "There is no such row.");
  const pairs = Object.entries(row).map(([column, value]) => h("div", { class: differing.includes(column) ? "differs" : null },
    h("dt", null, foreign(column), differing.includes(column) ? h("span", { class: "tag" }, "differs") : null),
    h("dd", { tabindex: isLong(value) ? "0" : null }, shownValue(value))));
  return h("dl", { class: "row" }, pairs);
}

function rowCard(title, kind, word, parts) {
  return h("article", { class: "copy", "data-kind": kind },
    h("header", null, h("h3", null, foreign(title)), h("p", { class: "badge" }, mark(kind), h("span", null, word))), parts);
}

function showTrace(trace) {
  const { source, regions } = trace;
  const wrong = regions.filter(({ verdict }) => verdict !== "equal" && verdict !== "unknown");
  const unread = regions.filter(({ verdict }) => verdict === "unknown");
  const coming = wrong.filter(({ verdict }) => verdict === "on-its-way");
  const unfinished = wrong.filter(({ verdict }) => verdict === "not-live");
  const differ = wrong.filter((region) => !coming.includes(region) && !unfinished.includes(region));
  const told = differ.length > 0
    ? `${differ.length === 1 ? "One region differs" : `${differ.length} regions differ`}: ${names(differ.map(({ sink }) => sink))}.`
    : unfinished.length > 0 ? `The table is not live in ${names(unfinished.map(({ sink }) => sink))}.`
    : coming.length > 0 ? `It is on its way to ${names(coming.map(({ sink }) => sink))}.`
    : unread.length > 0 ? "Every region that can be read has it as it should be." : "Every region has it as it should be.";
  const cards = regions.map((region) => {
    const { kind, word } = VERDICTS[region.verdict] ?? { kind: "unknown", word: region.verdict };
    const letters = region.dead_letters.map((letter) => h("li", null, foreign(`${letter.operation} of ${time(new Date(letter.recorded))}: ${letter.reason}`)));
    return rowCard(region.sink, kind, word, [
      region.table_state ? h("p", { class: "why" }, `The table is ${TABLE_STATES[region.table_state]?.word ?? region.table_state}.`) : null,
      region.problem ? h("p", { class: "why" }, foreign(region.problem)) : null,
      (region.problem || region.table_state === "rebuilding") && region.row === null ? null : rowValues(region.row, region.differing),
      letters.length > 0 ? h("ul", { class: "list" }, letters) : null,
      h("p", { class: "quiet-text" }, region.checkpoint_lsn ? `Read at ${region.checkpoint_lsn}` : ""),
    ]);
  });
  const rejected = source.rejected.map((reason) => h("li", null, foreign(reason)));
  $("row-result").replaceChildren(
    h("p", { class: "result-line", "data-kind": differ.length > 0 ? "bad" : "ok" }, told),
    h("div", { class: "copies" },
      rowCard("Postgres", "unknown", "Source", [
        rowValues(source.row),
        rejected.length > 0 ? h("ul", { class: "list" }, rejected) : null,
        h("p", { class: "quiet-text" }, `Read at ${source.lsn}`),
      ]), cards));
}

$("row-table").addEventListener("change", () => showKeyFields($("row-key"), $("row-table").value, { required: true }));
$("row-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const table = $("row-table").value;
  const path = [table, keyIn($("row-key"))].map(encodeURIComponent).join("/");
  act(event.submitter ?? event.target.querySelector("button"), async () => {
    $("row-result").replaceChildren(h("p", { class: "quiet-text" }, "Looking…"));
    try {
      showTrace(await request("GET", `/status/${path}`));
    } catch (error) {
      $("row-result").replaceChildren(error instanceof Refusal ? h("p", { class: "problem" }, foreign(error.text)) : "");
      if (!(error instanceof Refusal)) throw error;
    }
  });
});
