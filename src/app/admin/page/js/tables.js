// The tables that are replicated, and how far each is filled in the regions, where the status says so.

const TABLE_STATES = {
  live: { kind: "ok", word: "live" },
  filling: { kind: "behind", word: "filling" },
  "catching-up": { kind: "behind", word: "filled, the stream is coming" },
  rebuilding: { kind: "behind", word: "being rebuilt for a changed schema.json, readers see it as it was" },
  waiting: { kind: "behind", word: "waiting to be filled" },
  incomplete: { kind: "bad", word: "left empty" },
  stopped: { kind: "stopped", word: "stopped" },
};
/** States that end by themselves. */
const TABLE_COMES = new Set(["filling", "catching-up", "rebuilding", "waiting"]);

/** States in which rows are brought. */
const TABLE_FILLS = new Set(["filling", "rebuilding"]);

let tableNames = [];

/** Whether the region lacks nothing but rows that are being brought. */
function isFilling(sink) {
  const missing = (sink?.tables ?? []).filter(({ state }) => state !== "live");
  return ["attached", "catching-up"].includes(sink?.state) && missing.length > 0 && missing.every(({ state }) => TABLE_COMES.has(state));
}

function fillText({ sink, state, rows, rows_estimated: estimated, rows_owed: owed, seconds_left: left }) {
  const parts = [`${sink}: ${TABLE_STATES[state]?.word ?? state}`];
  if (TABLE_FILLS.has(state)) parts.push(`${count(rows)} of about ${many(estimated, "row")}`);
  if (owed > 0) parts.push(`${many(owed, "row")} to be read one by one`);
  if (TABLE_FILLS.has(state) && isNumber(left)) parts.push(`${duration(left)} left`);
  return `${parts.join(", ")}.`;
}

function makeTable(table) {
  const parts = {
    about: h("span", { class: "quiet-text" }),
    badge: h("span", { class: "badge" }),
    badgeMark: h("span", { "aria-hidden": "true" }),
    badgeWord: h("span"),
    fills: h("ul", { class: "fills" }),
  };
  parts.badge.append(parts.badgeMark, parts.badgeWord);
  const buttons = h("span", { class: "buttons" }, scopeButtons({ table: table.name }));
  parts.element = h("li", { class: "table" },
    h("div", { class: "table-name" }, foreign(table.name, { class: "text strong" }),
      table.target === table.name ? null : h("span", { class: "quiet-text" }, "in the regions ", foreign(table.target))),
    parts.about, parts.badge, buttons, parts.fills);
  return parts;
}

function makeFill() {
  const parts = {
    badgeMark: h("span", { class: "badge", "aria-hidden": "true" }),
    text: foreign(""),
    problem: foreign("", { class: "text reason" }),
    hint: foreign("", { class: "text hint" }),
    bar: h("progress", { "aria-label": "Filled" }),
  };
  parts.element = h("li", null, h("p", { class: "badge" }, parts.badgeMark, parts.text), parts.bar, parts.problem, parts.hint);
  return parts;
}

function updateFill(parts, fill) {
  setMark(parts.badgeMark, TABLE_STATES[fill.state]?.kind ?? "unknown");
  setText(parts.text, fillText(fill));
  setText(parts.problem, fill.problem);
  setText(parts.hint, fill.hint);
  show(parts.problem, Boolean(fill.problem));
  show(parts.hint, Boolean(fill.hint));
  show(parts.bar, TABLE_FILLS.has(fill.state));
  if (TABLE_FILLS.has(fill.state)) Object.assign(parts.bar, { max: Math.max(1, fill.rows_estimated), value: Math.min(fill.rows, fill.rows_estimated) });
}

function updateTable(parts, { table, fills }) {
  const rows = isNumber(table.estimated_rows) ? `, about ${many(table.estimated_rows, "row")}` : "";
  setText(parts.about, `${many(table.columns, "column")}, key ${table.key.join(", ")}${rows}`);
  const missing = fills.filter(({ state }) => state !== "live");
  show(parts.badge, fills.length > 0);
  setMark(parts.badgeMark, missing.length === 0 ? "ok" : missing.every(({ state }) => TABLE_COMES.has(state)) ? "behind" : "bad");
  setText(parts.badgeWord, missing.length === 0 ? "Live in every region" : `Not live in ${missing.length} of ${fills.length} regions`);
  show(parts.fills, missing.length > 0);
  keep(parts.fills, missing, ({ sink }) => sink, makeFill, updateFill);
}

function showTables({ tables, status }) {
  tableNames = tables.map(({ name }) => name);
  const fillsOf = (target) => status.sinks.flatMap(({ name, tables: held }) =>
    (held ?? []).filter((each) => each.target === target).map((each) => ({ ...each, sink: name })));
  const items = tables.map((table) => ({ table, fills: fillsOf(table.target) }));
  // A table that has changed is made anew.
  keep($("table-list"), items, ({ table }) => JSON.stringify([table.name, table.target]), ({ table }) => makeTable(table), updateTable);
}
