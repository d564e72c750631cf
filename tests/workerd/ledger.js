// What was asked of the rig since the process started: the numbers that tests assert instead of times.

const databases = new Map();
const tokens = new Map();
let limit; // { requests, window_s } per token; undefined: none

const newDatabase = () => ({
  requests: 0,
  in_flight: 0,
  in_flight_max: 0,
  statements: 0,
  statements_max: 0,
  body_bytes: 0,
  body_bytes_max: 0,
  applied: 0,
  refused: 0,
  rows_written: 0,
  rows_written_max: 0,
  faults: {},
});

export function database(name) {
  if (!databases.has(name)) databases.set(name, newDatabase());
  return databases.get(name);
}

// A request to a database begins. Returns the function that ends it, which may be called more than once.
export function begin(name) {
  const entry = database(name);
  entry.requests += 1;
  entry.in_flight += 1;
  entry.in_flight_max = Math.max(entry.in_flight_max, entry.in_flight);
  let isOver = false;
  const end = () => {
    if (!isOver) entry.in_flight -= 1;
    isOver = true;
  };
  return end;
}

// Counts what a request brought and, where it took effect, what it wrote.
export function count(name, bytes, statements, results) {
  const entry = database(name);
  entry.statements += statements;
  entry.statements_max = Math.max(entry.statements_max, statements);
  entry.body_bytes += bytes;
  entry.body_bytes_max = Math.max(entry.body_bytes_max, bytes);
  if (!results) {
    entry.refused += 1;
    return;
  }
  const written = results.reduce((sum, { meta }) => sum + meta.rows_written, 0);
  entry.applied += 1;
  entry.rows_written += written;
  entry.rows_written_max = Math.max(entry.rows_written_max, written);
}

export function countFault(name, kind) {
  const { faults } = database(name);
  faults[kind] = (faults[kind] ?? 0) + 1;
}

export function setLimit(requests, window_s) {
  limit = requests ? { requests, window_s } : undefined;
  for (const token of tokens.values()) Object.assign(token, { window_ends: 0, used: 0 });
}

// A request of a token arrives. Returns the headers for its answer, and whether the token's limit turns it away.
// The window is fixed, and a token that goes over it is turned away until it ends.
export function admit(name) {
  if (!tokens.has(name)) {
    tokens.set(name, { requests: 0, turned_away: 0, sent_early: 0, quiet_until: 0, window_ends: 0, used: 0 });
  }
  const token = tokens.get(name);
  const now = Date.now();
  token.requests += 1;
  if (now < token.quiet_until) token.sent_early += 1;
  if (!limit) return { headers: {}, isOver: false };
  if (now >= token.window_ends) {
    token.window_ends = now + limit.window_s * 1000;
    token.used = 0;
  }
  token.used += 1;
  const isOver = token.used > limit.requests;
  const seconds = Math.ceil((token.window_ends - now) / 1000);
  const headers = {
    "ratelimit": `"default";r=${Math.max(0, limit.requests - token.used)};t=${seconds}`,
    "ratelimit-policy": `"default";q=${limit.requests};w=${limit.window_s}`,
  };
  if (isOver) {
    token.turned_away += 1;
    headers["retry-after"] = String(seconds);
  }
  return { headers, isOver };
}

// The token was told to send nothing for some seconds: what comes before is counted.
export function quiet(name, seconds) {
  const token = tokens.get(name);
  if (token) token.quiet_until = Math.max(token.quiet_until, Date.now() + seconds * 1000);
}

export function numbers() {
  return { databases: Object.fromEntries(databases), tokens: Object.fromEntries(tokens) };
}
