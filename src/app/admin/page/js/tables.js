// The tables that are replicated, and how far each is filled where the status says so.

let tableNames = [];

/** How far a table is filled, in words. */
function fillText(fill) {
  const done = fill.rows_done ?? fill.rows;
  const total = fill.rows_estimated ?? fill.estimated_rows ?? fill.rows_total;
  const parts = [fill.sink ? `${fill.sink}: ${fill.state ?? "unknown"}` : fill.state ?? "unknown"];
  if (isNumber(done)) parts.push(isNumber(total) ? `${count(done)} of about ${many(total, "row")}` : many(done, "row"));
  if (isNumber(fill.seconds_left)) parts.push(`${duration(fill.seconds_left)} left`);
  return { text: parts.join(", "), done, total };
}

/** Everything that the status says of one table, whether for all regions or by region. */
function fillsOf(status, name) {
  const isOf = (fill) => (fill.table ?? fill.name) === name;
  const bySink = status.sinks.flatMap((sink) => {
    const fills = Array.isArray(sink.tables) ? sink.tables : [];
    return fills.filter(isOf).map((fill) => ({ sink: sink.name, ...fill }));
  });
  return [...(Array.isArray(status.tables) ? status.tables.filter(isOf) : []), ...bySink];
}

function makeTable(table) {
  const parts = { about: h("span", { class: "quiet-text" }), fills: h("ul", { class: "fills" }) };
  parts.element = h("li", { class: "table" },
    h("div", { class: "table-name" }, foreign(table.name, { class: "text strong" }),
      table.target === table.name ? null : h("span", { class: "quiet-text" }, "in the regions ", foreign(table.target))),
    parts.about, parts.fills, scopeButtons({ table: table.name }));
  return parts;
}

function updateTable(parts, { table, fills }) {
  const rows = isNumber(table.estimated_rows) ? `, about ${many(table.estimated_rows, "row")}` : "";
  setText(parts.about, `${many(table.columns, "column")}, key ${table.key.join(", ")}${rows}`);
  show(parts.fills, fills.length > 0);
  keep(parts.fills, fills, (fill) => fill.sink ?? "", () => {
    const text = foreign("");
    const bar = h("progress", { "aria-label": "Filled" });
    return { text, bar, element: h("li", null, text, bar) };
  }, ({ text, bar }, fill) => {
    const said = fillText(fill);
    setText(text, said.text);
    show(bar, isNumber(said.done) && isNumber(said.total) && fill.state !== "live");
    if (!bar.hidden) Object.assign(bar, { max: Math.max(1, said.total), value: Math.min(said.done, said.total) });
  });
}

function showTables({ tables, status }) {
  tableNames = tables.map((table) => table.name);
  const items = tables.map((table) => ({ table, fills: fillsOf(status, table.name) }));
  // A table that has changed is made anew.
  keep($("table-list"), items, ({ table }) => JSON.stringify([table.name, table.target]), ({ table }) => makeTable(table), updateTable);
}
