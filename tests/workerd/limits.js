// D1's documented limits (https://developers.cloudflare.com/d1/platform/limits/), on statements before they run.
// workerd itself allows more, differently from release to release, so it cannot be left to it.

export const VALUE_BYTES_MAX = 2_000_000; // also a whole row
export const SQL_BYTES_MAX = 100_000;
export const PARAMS_MAX = 100;
let statementsMax = 100;

// Lets a request have more statements, for clients that do not keep the limit.
export function allowStatements(count) {
  statementsMax = count;
}

const encoder = new TextEncoder();

// The length in UTF-8. Encoding takes time, and most strings are short or long enough without it.
function bytesOver(text, max) {
  if (text.length > max) return true;
  return text.length * 3 > max && encoder.encode(text).length > max;
}

// Whether there is a second statement in the text: something other than blanks behind a semicolon that stands
// outside of literals, names and comments. A trigger's body has semicolons of its own.
function isJoined(sql) {
  if (!sql.includes(";") || /^\s*create\s+(temp\w*\s+)?trigger\b/i.test(sql)) return false;
  const bare = sql.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|\/\*[^]*?\*\//g, "x");
  return /;\s*\S/.test(bare);
}

// The rows that `INSERT … VALUES (…),(…)` writes, as slices of its parameters, if there is one parameter per column.
function rowsOf(sql, params) {
  const columns = /^\s*insert\s+into\s+\S+\s*\(([^)]*)\)\s*values\b/i.exec(sql)?.[1].split(",").length;
  if (!columns || params.length % columns !== 0) return [];
  return Array.from({ length: params.length / columns }, (_, row) => params.slice(row * columns, (row + 1) * columns));
}

// The first limit that the request breaks, as { rule, message }; undefined where it breaks none.
export function brokenLimit(statements) {
  if (statements.length > statementsMax) {
    return { rule: "statements", message: `too many SQL statements in one request: ${statements.length}` };
  }
  for (const { sql, params } of statements) {
    if (bytesOver(sql, SQL_BYTES_MAX)) return { rule: "sql_bytes", message: "statement too long: SQLITE_TOOBIG" };
    if (isJoined(sql)) {
      return { rule: "joined", message: "several statements in one text: what is answered differs, use batch" };
    }
    if (params.length > PARAMS_MAX) {
      return { rule: "params", message: `too many SQL variables at offset ${sql.length}: SQLITE_ERROR` };
    }
    if (params.some((param) => bytesOver(param, VALUE_BYTES_MAX))) {
      return { rule: "value_bytes", message: "string or blob too big: SQLITE_TOOBIG" };
    }
    if (params.length > 1 && rowsOf(sql, params).some((row) => bytesOver(row.join(""), VALUE_BYTES_MAX))) {
      return { rule: "row_bytes", message: "string or blob too big: SQLITE_TOOBIG" };
    }
  }
  return undefined;
}

// The limit that SQLite found broken while the statements ran.
export function brokenInSqlite(message) {
  if (message.includes("too many columns")) return "columns";
  if (/SQLITE_TOOBIG|too many SQL variables|too many terms|LIKE or GLOB pattern too complex/.test(message)) {
    return "sqlite";
  }
  return undefined;
}
