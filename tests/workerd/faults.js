// Faults to order: every signal that D1, its API and the network between are known to give. A fault is taken by the
// next request it fits; with `applied` the request takes effect first and only its answer is lost.

const HOUR_MS = 3_600_000;

// Errors of the database: the status and the message they come with.
const MESSAGES = {
  "internal-error": [500, "internal error; reference = rig00000000"],
  "network-connection-lost": [500, "Network connection lost."],
  "code-updated": [500, "D1 DB reset because its code was updated."],
  "storage-reset": [500, "Internal error in D1 DB storage caused object to be reset."],
  "startup-reset": [500, "Internal error while starting up D1 DB storage caused object to be reset."],
  "replica-disconnected": [500, "Replica disconnected from primary."],
  "client-disconnected": [500, "Can't read from request stream because client disconnected."],
  "remote-node": [500, "Cannot resolve D1 DB due to transient issue on remote node."],
  "queued-too-long": [500, "D1 DB is overloaded. Requests queued for too long."],
  "too-many-queued": [500, "D1 DB is overloaded. Too many requests queued."],
  "storage-timeout": [500, "D1 DB storage operation exceeded timeout which caused object to be reset."],
  "memory": [500, "D1 DB's isolate exceeded its memory limit and was reset."],
  "cpu": [500, "D1 DB exceeded its CPU time limit and was reset."],
  "import-running": [400, "Currently processing a long-running import."],
  "export-running": [400, "Currently processing a long-running export."],
  "out-of-memory": [400, "out of memory: SQLITE_NOMEM"],
  "database-full": [400, "Exceeded maximum DB size"],
  "disk-full": [400, "database or disk is full: SQLITE_FULL"],
  "account-full": [400, "Your account has exceeded D1's maximum account storage limit, please contact Cloudflare"],
  "daily-limit": [400, "Your account has exceeded D1's free tier daily row write limit, please upgrade"],
};

// Errors of the API in front of the database: status, code, message.
const REFUSALS = {
  "401": [401, 10000, "Authentication error"],
  "403": [403, 7403, "The given account is not valid or is not authorized to access this service"],
  "404": [404, 7404, "The database could not be found"],
  // What a server says that plays the API in part.
  "404-route": [404, 7003, "Could not route to this path, perhaps your object identifier is invalid?"],
};

const GATEWAYS = { "502": "Bad gateway", "503": "Service unavailable", "504": "Gateway time-out" };

export function envelope(status, code, message, headers = {}) {
  const body = { messages: [], result: [], success: false, errors: [{ code, message }] };
  return Response.json(body, { status, headers: { "cf-d1": `err=${code}`, ...headers } });
}

const html = (status, title) =>
  new Response(`<!DOCTYPE html><html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>`, {
    status,
    headers: { "content-type": "text/html; charset=UTF-8" },
  });

// An answer that says it is longer than what comes before its connection ends.
function truncated(ctx) {
  const { readable, writable } = new FixedLengthStream(1000);
  const writer = writable.getWriter();
  const cut = async () => {
    await writer.write(new TextEncoder().encode('{"result":[{"results":[],"succ'));
    await writer.abort(new Error("cut off"));
  };
  ctx.waitUntil(cut().catch(() => {}));
  return new Response(readable, { headers: { "content-type": "application/json" } });
}

// The answers that are neither the database's nor the API's own words.
const ANSWERS = {
  "429": ({ retry_after = 1 }) =>
    envelope(429, 971, "Please wait and consider throttling your request speed", {
      "retry-after": String(retry_after),
      "ratelimit": `"default";r=0;t=${retry_after}`,
      "ratelimit-policy": '"default";q=1200;w=300',
    }),
  "429-without-retry-after": () => envelope(429, 971, "Please wait and consider throttling your request speed"),
  "429-html": () => html(429, "error code: 1015"),
  "not-json": () => new Response("upstream connect error", { headers: { "content-type": "text/plain" } }),
  // workerd ends a connection without an answer where a service behind it refused one.
  "reset": (_fault, _ctx, env) => env.NOBODY.fetch("http://nobody/"),
  "truncated": (_fault, ctx) => truncated(ctx),
  "hang": () => new Promise((resolve) => setTimeout(() => resolve(html(504, "hung")), HOUR_MS)),
};

export const KINDS = [
  "slow",
  "exhausted",
  ...Object.keys(MESSAGES),
  ...Object.keys(REFUSALS),
  ...Object.keys(GATEWAYS),
  ...Object.keys(ANSWERS),
];

// How many seconds the client must then leave the token alone; undefined for none.
export function pauseSeconds({ kind, retry_after = 1 }) {
  return ["429", "429-without-retry-after", "429-html", "exhausted"].includes(kind) ? retry_after : undefined;
}

export function answer(fault, ctx, env) {
  const { kind } = fault;
  if (kind in MESSAGES) {
    const [status, message] = MESSAGES[kind];
    // A binding's answers have another form than the API's.
    if (fault.at === "binding") return Response.json({ success: false, error: message }, { status });
    return envelope(status, 7500, message);
  }
  if (kind in REFUSALS) return envelope(...REFUSALS[kind]);
  if (kind in GATEWAYS) return html(Number(kind), GATEWAYS[kind]);
  return ANSWERS[kind](fault, ctx, env);
}

let ordered = [];

// mulberry32: the same seed, the same faults.
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Orders a fault. Returns why not, or undefined.
export function order(fault) {
  const { kind, db, at = "front", times = 1, after = 0, share = 1, seed = 1, delay_ms = 0, applied } = fault;
  if (!KINDS.includes(kind)) return `unknown kind; there are ${KINDS.join(", ")}`;
  if (typeof db !== "string") return 'db is a name, an id, "*" for every database, or "account" for the list of them';
  if (!["front", "binding"].includes(at)) return 'at is "front" or "binding"';
  if (times !== "until cleared" && !Number.isInteger(times)) return 'times is a number or "until cleared"';
  const left = times === "until cleared" ? Infinity : times;
  const isApplied = applied ?? kind === "slow";
  ordered.push({ ...fault, at, left, after, share, random: generator(seed), delay_ms, applied: isApplied });
  return undefined;
}

// Forgets what was ordered for the database, or for all.
export function clear(db) {
  ordered = db === undefined || db === "*" ? [] : ordered.filter((fault) => fault.db !== db);
}

// Takes the fault that a request to one of the names meets at this place. One that comes by chance and does not come
// leaves the turn to the next.
export function take(at, names) {
  const isMet = (it) => it.at === at && (names.includes(it.db) || (it.db === "*" && names[0] !== "account"));
  for (const fault of ordered.filter(isMet)) {
    if (fault.after > 0) {
      fault.after -= 1;
      return undefined;
    }
    if (fault.share < 1 && fault.random() >= fault.share) continue;
    fault.left -= 1;
    if (fault.left <= 0) ordered = ordered.filter((it) => it !== fault);
    return fault;
  }
  return undefined;
}
