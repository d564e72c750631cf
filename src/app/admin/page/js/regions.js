// The regions: a card each, with state, reason, lag, rate, queue and cost, and what can be done about it.

/** A region this close to the WAL's end is at it. */
const AT_END_BYTES = 256;
const STATES = {
  attached: { kind: "ok", word: "In step" },
  "catching-up": { kind: "behind", word: "Catching up", why: "The others go on without it. A slot of its own keeps what it lacks, and it comes back by itself." },
  failing: { kind: "bad", word: "Failing" },
  paused: { kind: "paused", word: "Paused", why: "It is applied nothing until it is resumed. A slot keeps what it lacks." },
  stopped: { kind: "stopped", word: "Stopped" },
  "not-created": { kind: "unknown", word: "Not created", why: "It was never fed." },
  "needs-backfill": { kind: "bad", word: "Needs a backfill", why: "It lacks changes that no slot has any more." },
  halted: { kind: "stopped", word: "Halted" },
  foreign: { kind: "stopped", word: "Foreign", why: "Its place holds something that walcast did not make." },
  unreadable: { kind: "bad", word: "Unreadable" },
  unknown: { kind: "unknown", word: "Unknown", why: "Postgres cannot be asked, so nothing can be said but its position." },
  discards: { kind: "ok", word: "Discards", why: "It keeps nothing." },
};
const OPERATOR_STATES = new Set(["paused", "stopped", "needs-backfill", "halted", "foreign", "unreadable"]);

const stateOf = (sink) => STATES[sink.state] ?? { kind: "unknown", word: sink.state };

function makeRegion({ name }) {
  const figure = (label) => {
    const value = h("dd");
    return { value, element: h("div", null, h("dt", null, label), value) };
  };
  const id = `region-${encodeURIComponent(name)}`;
  const region = {
    badge: h("p", { class: "badge" }),
    badgeMark: h("span", { "aria-hidden": "true" }),
    badgeWord: h("span", { class: "badge-word" }),
    reason: foreign("", { class: "text reason" }),
    hint: foreign("", { class: "text hint" }),
    seconds: h("span", { class: "big" }),
    size: h("span", { class: "quiet-text" }),
    spark: new Sparkline(),
    rate: figure("Rows/s"),
    queue: figure("Queue"),
    rows: figure("Rows so far"),
    letters: figure("Dead letters"),
    cost: figure("Cost"),
    requests: figure("Requests left"),
    position: h("span", { class: "quiet-text lsn", title: "The region's position" }),
    pause: h("button", { type: "button", class: "quiet", onclick: () => act(region.pause, () => steer(name, region.isPaused)) }),
    before: null,
    isPaused: false,
  };
  region.badge.append(region.badgeMark, region.badgeWord);
  const figures = [region.rate, region.queue, region.rows, region.letters];
  const costs = [region.cost, region.requests];
  region.element = h("article", { class: "region", "aria-labelledby": id, "data-region": name },
    h("header", null, h("h3", { id }, foreign(name)), region.badge),
    h("div", { class: "why" }, region.reason, region.hint),
    h("div", { class: "lag" },
      h("p", null, h("span", { class: "label" }, "Behind"), region.seconds, region.size),
      region.spark.element),
    h("dl", { class: "figures" }, figures.map((each) => each.element)),
    h("dl", { class: "figures costs" }, costs.map((each) => each.element)),
    h("footer", { class: "buttons" }, region.pause, scopeButtons({ db: name }), region.position));
  return region;
}

function updateRegion(region, sink) {
  const { kind, word, why } = stateOf(sink);
  const { engine, cost } = sink;
  setAttribute(region.element, "data-kind", kind);
  setMark(region.badgeMark, kind);
  setText(region.badgeWord, word);
  const tries = engine?.failed_attempts > 0
    ? ` (${many(engine.failed_attempts, "attempt")}${engine.failing_since ? ` since ${time(new Date(engine.failing_since))}` : ""})` : "";
  const reason = sink.problem ? `${sink.problem}${tries}` : why ?? "";
  setText(region.reason, reason);
  show(region.reason, reason !== "");
  setText(region.hint, sink.hint);
  show(region.hint, Boolean(sink.hint));

  setText(region.seconds, duration(sink.lag_seconds));
  setText(region.size, bytes(sink.lag_bytes));
  const figure = ({ element, value }, text) => {
    show(element, text !== null);
    setText(value, text);
  };
  figure(region.rate, perSecond(engine?.changes_per_second ?? region.rateNow));
  figure(region.queue, isNumber(engine?.queue_bytes) ? bytes(engine.queue_bytes) : null);
  figure(region.rows, engine ? count(engine.changes) : null);
  figure(region.letters, isNumber(sink.dead_letters) ? count(sink.dead_letters) : null);
  setAttribute(region.letters.element, "data-kind", sink.dead_letters > 0 ? "behind" : null);
  const price = isNumber(cost?.dollars_per_month) ? `, ${dollars(cost.dollars_per_month)} a month` : "";
  figure(region.cost, cost ? `${many(cost.rows_written, "row")} written${price}` : null);
  figure(region.requests, engine?.requests ? count(engine.requests.available) : null);
  setText(region.position, sink.checkpoint_lsn ?? "");

  region.isPaused = sink.state === "paused";
  setText(region.pause, region.isPaused ? "Resume" : "Pause");
  setAttribute(region.pause, "aria-label", `${region.isPaused ? "Resume" : "Pause"} region ${sink.name}`);
  show(region.pause, Boolean(engine) && !["stopped", "discards"].includes(sink.state));
}

/** Notes what only a series of snapshots shows. */
function noteRegion(region, sink, at) {
  region.spark.add(sink.lag_bytes);
  const changes = sink.engine?.changes;
  if (!isNumber(changes)) return;
  const { before } = region;
  if (before && at > before.at && changes >= before.changes) {
    // Smoothed over a few seconds, because batches come as they come.
    const now = (changes - before.changes) / ((at - before.at) / 1000);
    region.rateNow = region.rateNow === undefined ? now : region.rateNow * 0.6 + now * 0.4;
    if (region.rateNow < 0.05) region.rateNow = 0;
  }
  region.before = { at, changes };
}

function showRegions(snapshot) {
  const at = Date.parse(snapshot.at);
  keep($("region-list"), snapshot.status.sinks, (sink) => sink.name, makeRegion, (region, sink) => {
    noteRegion(region, sink, at);
    updateRegion(region, sink);
  });
}

async function steer(name, isPaused) {
  const verb = isPaused ? "resume" : "pause";
  await request("POST", `/sinks/${encodeURIComponent(name)}/${verb}`);
  toast(`Region ${name} is ${isPaused ? "resumed" : "paused"}.`);
}
