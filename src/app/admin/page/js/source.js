// Where the changes come from: the server, and how long its slot lasts.

const SLOT_STATES = {
  ready: { kind: "ok", word: "Ready" },
  "not-created": { kind: "unknown", word: "Not created yet" },
  lost: { kind: "bad", word: "Lost" },
};

const sourceParts = {};

function makeSource() {
  const fact = (label) => {
    const value = h("dd");
    const element = h("div", null, h("dt", null, label), value);
    return { element, value };
  };
  Object.assign(sourceParts, {
    server: fact("Server"),
    position: fact("WAL position"),
    written: fact("Writes"),
    slot: fact("Slot"),
    confirmed: fact("Confirmed"),
    retained: fact("WAL held back"),
    safe: fact("Room left"),
    lost: fact("Lost in, at this rate"),
    meter: h("meter", { id: "headroom", min: 0 }),
    meterLabel: h("label", { for: "headroom" }, "WAL held back, of what the server keeps for the slot"),
    copies: h("ul", { class: "list" }),
    problem: h("div", { class: "why" }, foreign("", { class: "text reason" }), foreign("", { class: "text hint" })),
    slotMark: h("span", { "aria-hidden": "true" }),
    slotWord: h("span"),
  });
  const { slot, meter, meterLabel, copies, problem } = sourceParts;
  slot.value.append(h("span", { class: "badge" }, sourceParts.slotMark, sourceParts.slotWord));
  const order = ["server", "position", "written", "slot", "confirmed", "retained", "safe", "lost"];
  sourceParts.headroom = h("div", { class: "meter" }, meterLabel, meter);
  $("source-panel").append(problem, h("dl", { class: "figures wide" }, order.map((name) => sourceParts[name].element)),
    sourceParts.headroom, copies);
}

function showSource({ status }) {
  if (!sourceParts.server) makeSource();
  const { source, slot, sinks, abandoned_copies: abandoned } = status;
  const { problem } = sourceParts;
  const said = source.problem ? source : slot?.problem ? slot : null;
  setText(problem.firstChild, said?.problem);
  setText(problem.lastChild, said?.hint);
  show(problem, said !== null);
  setText(sourceParts.server.value, source.version ? `Postgres ${source.version}, timeline ${source.timeline}` : "not reached");
  setText(sourceParts.position.value, source.current_wal_lsn ?? "–");
  setText(sourceParts.written.value, isNumber(source.wal_bytes_per_second) ? `${bytes(source.wal_bytes_per_second)}/s` : "–");
  const state = SLOT_STATES[slot?.state] ?? { kind: "unknown", word: "Unknown" };
  setMark(sourceParts.slotMark, state.kind);
  setText(sourceParts.slotWord, slot ? `${slot.name}: ${state.word.toLowerCase()}` : state.word);
  setText(sourceParts.confirmed.value, slot?.confirmed_flush_lsn ?? "–");
  setText(sourceParts.retained.value, bytes(slot?.retained_bytes));
  const isLimited = isNumber(slot?.safe_bytes);
  setText(sourceParts.safe.value, isLimited ? bytes(slot.safe_bytes) : "no limit set");
  setText(sourceParts.lost.value, !isLimited ? "never: the server keeps all of it"
    : isNumber(slot.seconds_until_lost) ? duration(slot.seconds_until_lost) : "not while nothing is written");
  show(sourceParts.headroom, isLimited);
  if (isLimited) {
    const total = slot.retained_bytes + slot.safe_bytes;
    Object.assign(sourceParts.meter, { max: total, low: total * 0.5, high: total * 0.8, optimum: 0, value: slot.retained_bytes });
    setText(sourceParts.meter, `${bytes(slot.retained_bytes)} of ${bytes(total)}`);
  }
  const copies = sinks.filter((sink) => sink.copy).map((sink) => ({ ...sink.copy, region: sink.name }));
  copies.push(...abandoned);
  keep(sourceParts.copies, copies, (copy) => copy.name, (copy) => {
    const text = foreign("");
    return { text, element: h("li", null, text) };
  }, ({ text }, copy) => {
    const whose = copy.region ? `the slot of ${copy.region}, which is catching up` : "a slot that nobody needs any more";
    const room = isNumber(copy.safe_bytes) ? `, room for ${bytes(copy.safe_bytes)} more` : "";
    setText(text, `${copy.name}: ${whose}. It holds back ${bytes(copy.retained_bytes)} of WAL${room}.`);
  });
}
