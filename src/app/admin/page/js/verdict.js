// The sentence at the top: whether all is well, as `/livez`, `/readyz` and the status say it.

const PHASES = {
  preparing: "walcast is starting.",
  stopping: "walcast is stopping.",
  resting: "walcast rests until its next run.",
};
/** What a sentence says of the only region that is not right. */
const SENTENCES = {
  failing: "is failing",
  paused: "is paused",
  stopped: "has stopped",
  halted: "has stopped",
  "needs-backfill": "needs a backfill",
  unreadable: "cannot be read",
  "catching-up": "cannot catch up",
};
/** More are counted, and not shown. */
const FINDINGS_MAX = 12;
/** Less room than this share of the limit is worth a word. */
const HEADROOM_SHARE_MIN = 0.2;
const HEADROOM_SHARE_HALF = 0.5;
/** What is not older is what is now. */
const FRESH_SECONDS = 5;
const HEADROOM_SECONDS_MIN = 3600;

/** Why the slot may be lost soon, or null. */
function headroomProblem(slot) {
  if (!slot || !isNumber(slot.safe_bytes)) return null;
  const share = slot.limit_bytes > 0 ? slot.safe_bytes / slot.limit_bytes : 1;
  const isNarrow = share < HEADROOM_SHARE_MIN;
  // A short burst of writes is no reason, as long as there is much room.
  const isSoon = share < HEADROOM_SHARE_HALF && isNumber(slot.seconds_until_lost) && slot.seconds_until_lost < HEADROOM_SECONDS_MIN;
  if (!isSoon && !isNarrow) return null;
  return {
    subject: `slot ${slot.name}`,
    message: "may soon be given up by the server: it holds back nearly as much WAL as it may",
    hint: "raise max_slot_wal_keep_size, or see to the region that is furthest behind",
  };
}

/** Everything that is to be said, the worst first: `{kind, subject, message, hint}`. */
function findings({ liveness, readiness, status }) {
  // What a region still waits for is no reason to do something.
  const filling = new Set(status.sinks.filter(isFilling).map(({ name }) => `sink ${name}`));
  const told = [...liveness.problems, ...readiness.problems];
  const bad = told.filter(({ subject }) => !filling.has(subject)).map((finding) => ({ kind: "bad", ...finding }));
  const said = new Set(bad.map((finding) => finding.subject));
  const add = (subject, { problem, hint }) => {
    if (problem && !said.has(subject)) bad.push({ kind: "bad", subject, message: problem, hint });
  };
  add("source", status.source);
  if (status.slot) add(`slot ${status.slot.name}`, status.slot);
  for (const sink of status.sinks) {
    if (OPERATOR_STATES.has(sink.state)) add(`sink ${sink.name}`, { problem: sink.problem ?? stateOf(sink).word, hint: sink.hint });
  }
  const coming = told.filter(({ subject }) => filling.has(subject));
  const behind = [...coming, ...readiness.catching_up].map((finding) => ({ kind: "behind", ...finding }));
  const headroom = headroomProblem(status.slot);
  if (headroom) behind.push({ kind: "behind", ...headroom });
  for (const copy of status.abandoned_copies) {
    const message = `holds back ${bytes(copy.retained_bytes)} of WAL for a region that is not configured any more`;
    behind.push({ kind: "behind", subject: `slot ${copy.name}`, message, hint: `SELECT pg_drop_replication_slot('${copy.name}');` });
  }
  const letters = status.sinks.filter((sink) => sink.dead_letters > 0);
  if (letters.length > 0) {
    const total = letters.reduce((sum, sink) => sum + sink.dead_letters, 0);
    const message = `${total === 1 ? "is a row" : `are ${count(total)} rows`} that ${names(letters.map((sink) => sink.name))} did not take`;
    behind.push({ kind: "behind", subject: "Among the dead letters", message, hint: "see them below, with their reasons" });
  }
  return [...bad, ...behind];
}

/** The sentence and its kind. It changes only with what is wrong, because a screen reader says it whenever it changes. */
function verdict(snapshot, found) {
  const { liveness, readiness, status } = snapshot;
  const total = status.sinks.length;
  const regions = total === 1 ? "The region" : `All ${total} regions`;
  const bad = found.filter((finding) => finding.kind === "bad");
  const wrong = new Set(bad.map((finding) => finding.subject).filter((subject) => subject.startsWith("sink ")));
  const names_ = [...wrong].map((subject) => subject.slice(5));
  if (PHASES[readiness.phase] !== undefined) return { kind: "unknown", sentence: PHASES[readiness.phase] };
  if (status.source.is_reachable === false) {
    return { kind: "bad", sentence: "Postgres cannot be reached. The regions keep what they have." };
  }
  if (status.slot?.state === "lost") return { kind: "bad", sentence: "The slot is lost. The regions must be filled anew." };
  if (readiness.phase === "waiting") return { kind: "bad", sentence: "Replication has stopped, and is tried again." };
  if (!liveness.is_live) return { kind: "bad", sentence: "Replication stands still." };
  if (wrong.size > 0) {
    const rest = wrong.size === total ? "" : " The others go on.";
    const only = status.sinks.find((sink) => sink.name === names_[0]);
    return wrong.size === 1
      ? { kind: "bad", sentence: `Region ${names_[0]} ${SENTENCES[only?.state] ?? "is not right"}.${rest}` }
      : { kind: "bad", sentence: `${wrong.size} of ${total} regions are not right: ${names(names_)}.${rest}` };
  }
  if (bad.length > 0) return { kind: "bad", sentence: "Something is not right." };
  const filling = status.sinks.filter(isFilling).map(({ name }) => name);
  if (filling.length > 0) {
    const whose = filling.length === total && total > 1 ? `All ${total} regions` : names(filling);
    return { kind: "behind", sentence: `${whose} ${filling.length === 1 ? "is" : "are"} being filled, while changes go on.` };
  }
  const behind = status.sinks.filter((sink) => sink.state === "catching-up").map((sink) => sink.name);
  if (behind.length > 0) {
    return { kind: "behind", sentence: `${names(behind)} ${behind.length === 1 ? "is" : "are"} catching up. Nothing is lost.` };
  }
  const verb = total === 1 ? "is" : "are";
  if (found.length > 0) return { kind: "behind", sentence: `${regions} ${verb} in step, but there is something to see to.` };
  return { kind: "ok", sentence: `All is well. ${regions} ${verb} in step with Postgres.` };
}

/** A line of figures, which changes all the time and is not announced. */
function detail({ status }) {
  const { source, sinks } = status;
  if (sinks.length === 0) return "";
  const furthest = sinks.reduce((worst, sink) => ((sink.lag_bytes ?? -1) > (worst.lag_bytes ?? -1) ? sink : worst));
  const parts = [];
  if (isNumber(furthest.lag_bytes)) {
    const seconds = isNumber(furthest.lag_seconds) ? ` and ${duration(furthest.lag_seconds)}` : "";
    const isLevel = furthest.lag_bytes < AT_END_BYTES;
    parts.push(isLevel ? "Every region is at the end of the WAL" : `Furthest behind is ${furthest.name}, by ${bytes(furthest.lag_bytes)}${seconds}`);
  }
  if (isNumber(source.wal_bytes_per_second)) parts.push(`Postgres writes ${bytes(source.wal_bytes_per_second)} of WAL a second`);
  return parts.length > 0 ? `${parts.join(". ")}.` : "";
}

/** Updates the top of the page; `snapshot` is null before the first one. */
function showVerdict(snapshot) {
  const age = connection.told === null ? null : (Date.now() - connection.told) / 1000;
  const isLost = connection.state === "lost" && age !== null;
  const found = snapshot === null || isLost ? [] : findings(snapshot);
  let said;
  if (connection.state === "locked") said = { kind: "unknown", sentence: "Enter the secret to see how the regions are." };
  else if (isLost) said = { kind: "unknown", sentence: "The connection to walcast is lost. What is shown may be out of date." };
  else if (connection.state === "lost") said = { kind: "unknown", sentence: "walcast does not answer." };
  else if (snapshot === null) said = { kind: "unknown", sentence: "Connecting…" };
  else said = verdict(snapshot, found);

  setText($("sentence"), said.sentence);
  setMark($("verdict-mark"), said.kind);
  setAttribute(document.body, "data-kind", said.kind);
  setAttribute(document.body, "data-connection", connection.state);
  setText($("detail"), snapshot === null || isLost ? "" : detail(snapshot));
  const shown = found.slice(0, FINDINGS_MAX);
  if (found.length > shown.length) shown.push({ kind: "unknown", subject: "And", message: `${count(found.length - shown.length)} more, which GET /readyz lists`, hint: null });
  keep($("findings"), shown.map((finding, index) => ({ ...finding, index })), ({ kind, subject, index }) => `${index} ${kind} ${subject}`, makeFinding, updateFinding);
  const total = found.filter((finding) => finding.kind === "bad").length;
  document.title = `${{ ok: "✓ ", behind: "▸ ", bad: `✗ ${total} · ` }[said.kind] ?? ""}walcast`;
  showConnection(age);
}

function makeFinding({ kind }) {
  const parts = { subject: foreign("", { class: "text strong" }), message: foreign(""), hint: foreign("", { class: "text hint" }) };
  parts.element = h("li", { class: kind }, mark(kind), h("div", null, h("p", null, parts.subject, " ", parts.message), parts.hint));
  return parts;
}

function updateFinding(parts, { subject, message, hint }) {
  setText(parts.subject, subject.replace(/^sink /, "Region ").replace(/^./, (letter) => letter.toUpperCase()));
  setText(parts.message, message);
  setText(parts.hint, hint);
  show(parts.hint, Boolean(hint));
}

function showConnection(age) {
  const { state, next } = connection;
  const retry = next === null ? "" : `, trying again in ${duration(Math.max(0, (next - Date.now()) / 1000))}`;
  const old = age === null ? "" : `${duration(age)} old`;
  const text = {
    connecting: "Connecting",
    live: age < FRESH_SECONDS ? "Live" : `Live, ${old}`,
    lost: age === null ? `No connection${retry}` : `Connection lost, ${old}${retry}`,
    locked: "Locked",
  }[state];
  setText($("connection"), text);
}
