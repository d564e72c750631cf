// D1's REST API, as far as a sink uses it: who may, which databases there are, statements.

import { run, serve } from "./databases.js";
import * as faults from "./faults.js";
import { envelope } from "./faults.js";
import * as ledger from "./ledger.js";

// Everything that begins like this is a valid token, so that tests can have several.
const TOKEN = /^Bearer (test-token[\w-]*)$/;
const ACCOUNT = "0123456789abcdef0123456789abcdef";
const PATH = /^\/client\/v4\/accounts\/([^/]+)\/d1\/database(?:\/([^/]+)(?:\/(query|raw|time_travel\/bookmark|time_travel\/restore))?)?$/;
const HINTS = ["wnam", "enam", "weur", "eeur", "apac", "oc"];

const success = (result, more = {}) => Response.json({ result, errors: [], messages: [], success: true, ...more });

export async function rest(request, url, { databases, env, ctx }) {
  const token = TOKEN.exec(request.headers.get("authorization") ?? "")?.[1];
  if (!token) return envelope(401, 10000, "Authentication error");
  const { headers, isOver } = ledger.admit(token);
  if (isOver) return envelope(429, 971, "Please wait and consider throttling your request speed", headers);
  const answer = await routed(request, url, { databases, env, ctx, token });
  for (const [name, value] of Object.entries(headers)) {
    if (!answer.headers.has(name)) answer.headers.set(name, value);
  }
  return answer;
}

async function routed(request, url, { databases, env, ctx, token }) {
  const [, account, id, action] = PATH.exec(url.pathname) ?? [];
  if (!account) return envelope(404, 7003, `Could not route to ${url.pathname}`);
  if (account !== ACCOUNT) {
    return envelope(403, 7403, "The given account is not valid or is not authorized to access this service");
  }
  if (!id) {
    const fault = faults.take("front", ["account"]);
    if (fault) return faults.answer(fault, ctx, env);
    return collection(request, url, databases);
  }
  const database = await databases.find(id);
  // Names are for finding ids with; the API itself takes ids only.
  if (database?.id !== id) return envelope(404, 7404, `The database ${id} could not be found`);
  switch (`${request.method} ${action ?? ""}`) {
    case "GET ":
      return success(await described(databases, database));
    case "DELETE ":
      await databases.remove(database);
      return success(null);
    case "GET time_travel/bookmark":
      return serve({ at: "front", database, token, env, ctx }, () => bookmarked(databases, database));
    case "POST time_travel/restore":
      return restored(databases, database, url.searchParams.get("bookmark"));
    case "POST query":
    case "POST raw":
      return serve({ at: "front", database, token, env, ctx }, () =>
        statements(request, databases, database, action),
      );
    default:
      return envelope(405, 10405, "Method not allowed for this endpoint");
  }
}

async function collection(request, url, databases) {
  if (request.method === "GET") {
    const name = url.searchParams.get("name");
    const per_page = Math.min(Number(url.searchParams.get("per_page") ?? 1000), 10_000);
    const page = Number(url.searchParams.get("page") ?? 1);
    // As production does, by a part of the name.
    const found = (await databases.list()).filter((it) => !name || it.name.includes(name));
    const shown = found.slice((page - 1) * per_page, page * per_page);
    const result = await Promise.all(shown.map((it) => described(databases, it)));
    return success(result, { result_info: { count: result.length, page, per_page, total_count: found.length } });
  }
  if (request.method !== "POST") return envelope(405, 10405, "Method not allowed for this endpoint");
  const { name, primary_location_hint: hint } = (await json(request)) ?? {};
  if (typeof name !== "string" || !/^[A-Za-z0-9][\w-]{0,63}$/.test(name)) {
    return envelope(400, 7400, "Invalid property: name => Must be 1 to 64 letters, digits, _ and -");
  }
  if (hint !== undefined && !HINTS.includes(hint)) {
    return envelope(400, 7400, `Invalid property: primary_location_hint => Must be one of ${HINTS.join(", ")}`);
  }
  const created = await databases.create(name);
  if (!created) return envelope(400, 7502, `A database with that name already exists`);
  return success(await described(databases, created));
}

async function described(databases, { id, name, created_at }) {
  const { num_tables, file_size } = await databases.object(id).describe();
  return { uuid: id, name, version: "production", created_at, num_tables, file_size };
}

// D1 has a bookmark of every moment; the rig, of those that somebody has asked for. They sort by time.
async function bookmarked(databases, database) {
  const at = Date.now().toString(16).padStart(16, "0");
  const bookmark = `${at.slice(0, 8)}-${at.slice(8)}-00000000-${crypto.randomUUID().replaceAll("-", "")}`;
  await databases.object(database.id).keep(bookmark);
  return success({ bookmark });
}

async function restored(databases, database, bookmark) {
  const object = databases.object(database.id);
  const { result } = await (await bookmarked(databases, database)).json();
  if (!(await object.restore(bookmark))) return envelope(400, 7400, `Invalid bookmark: ${bookmark}`);
  return success({ bookmark, previous_bookmark: result.bookmark, message: "the database is what it was" });
}

async function json(request) {
  try {
    return JSON.parse(await request.text());
  } catch {
    return undefined;
  }
}

// The statements of a body, or undefined where it has another form than the API describes: `sql` and `params`, or
// a `batch` of them, with strings as parameters.
function statementsOf(body) {
  const asked = body?.batch ?? (body?.sql === undefined ? undefined : [body]);
  if (!Array.isArray(asked) || asked.length === 0) return undefined;
  const statements = asked.map(({ sql, params }) => ({ sql, params: params ?? [] }));
  return statements.every(({ sql, params }) => typeof sql === "string" && Array.isArray(params)) ? statements : undefined;
}

async function statements(request, databases, database, form) {
  const text = await request.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    return envelope(400, 7400, "The request is malformed: invalid JSON");
  }
  const asked = statementsOf(body);
  if (!asked) return envelope(400, 7400, "The request is malformed: neither sql nor a batch");
  if (asked.some(({ params }) => params.some((param) => typeof param !== "string"))) {
    await databases.violate("params_not_strings", database.name);
    return envelope(400, 7400, "Invalid input: params are strings");
  }
  const { results, error } = await run(databases, database, asked, text.length);
  if (error) {
    const isInternal = error.startsWith("internal error") || error.startsWith("Durable Object was reset");
    return envelope(isInternal ? 500 : 400, 7500, error);
  }
  return success(results.map((result) => ({ results: rowsIn(form, result), success: true, meta: result.meta })));
}

function rowsIn(form, { columns, rows }) {
  if (form === "raw") return { columns, rows };
  return rows.map((row) => Object.fromEntries(row.map((value, at) => [columns[at], value])));
}
