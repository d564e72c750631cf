// walcast's companion Worker: executes signed batches of SQL on the D1 databases bound to it.
//
// A batch is one transaction (`db.batch()`). The Worker knows nothing of tables or checkpoints: walcast composes the
// statements, and the first of each batch is its fence, so a batch that arrives twice takes effect once.
//
// In reading order: what may be asked (`route`), who may ask (`isSigned`), what is read of a body and how much
// (`readBody`, `readStatements`), and the answer, which has the shape of D1's REST API (`answered`, `refused`).

/** The protocol's version, in every path and signature. */
const PROTOCOL = 'v1';
/** How far the sender's clock may be off, in seconds. */
const WINDOW_SECONDS = 60;
/** A shorter key is refused, in bytes. */
const KEY_BYTES_MIN = 32;
/** What a request may hold: bytes as sent, bytes of JSON, statements. */
const SENT_BYTES_MAX = 8 * 1024 * 1024;
const JSON_BYTES_MAX = 16 * 1024 * 1024;
const STATEMENTS_MAX = 50;
/** What D1 takes in one statement: parameters, bytes of SQL. */
const PARAMETERS_MAX = 100;
const SQL_BYTES_MAX = 100_000;

const QUERY = new RegExp(`^/${PROTOCOL}/databases/([A-Za-z_][A-Za-z0-9_]{0,63})/query$`);

/** Why a request is not carried out. */
class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export default {
  async fetch(request, env) {
    try {
      const asked = route(request);
      const body = await readBody(request.body, SENT_BYTES_MAX);
      if (!(await isSigned(request, asked.path, body, env))) {
        throw new Refusal(401, 10000, 'Authentication error: no key of this Worker made the signature');
      }
      if (asked.binding === undefined) return answered(databases(env));
      const database = env[asked.binding];
      if (!isDatabase(database)) {
        throw new Refusal(404, 7003, `no D1 database is bound as ${asked.binding}`);
      }
      const statements = await readStatements(request, body);
      return answered(await execute(database, statements));
    } catch (error) {
      if (error instanceof Refusal) return refused(error.status, error.code, error.message);
      return failed(error);
    }
  },
};

/** What the request asks for: its path, and the binding it names if it names one. */
function route(request) {
  const url = new URL(request.url);
  const query = QUERY.exec(url.pathname);
  const isList = url.pathname === `/${PROTOCOL}/databases`;
  if (url.search !== '' || (query === null && !isList)) throw new Refusal(404, 7000, 'No route for that URI');
  const method = isList ? 'GET' : 'POST';
  if (request.method !== method) throw new Refusal(405, 10405, `Method not allowed: this is for ${method}`);
  return { path: url.pathname, binding: query?.[1] };
}

/**
 * Whether one of the keys signed method, path, time and body, not long ago.
 * The comparison is the runtime's, in constant time, and both keys are always tried.
 */
async function isSigned(request, path, body, env) {
  const keys = await Promise.all([env.WALCAST_KEY, env.WALCAST_KEY_PREVIOUS].filter(isKey).map(importKey));
  if (keys.length === 0) {
    throw new Refusal(401, 10000, `Authentication error: WALCAST_KEY is not set, or has less than ${KEY_BYTES_MIN} bytes`);
  }
  const time = request.headers.get('walcast-timestamp') ?? '';
  const signature = /^v1=([0-9a-f]{64})$/.exec(request.headers.get('walcast-signature') ?? '');
  if (!/^[0-9]{1,12}$/.test(time) || signature === null) return false;
  const now = Math.floor(Date.now() / 1000);
  if (Math.abs(now - Number(time)) > WINDOW_SECONDS) {
    throw new Refusal(401, 10000, `Authentication error: signed at ${time}, but it is ${now} here: a clock is wrong`);
  }
  const head = new TextEncoder().encode(`${PROTOCOL}\n${time}\n${request.method}\n${path}\n`);
  const signed = new Uint8Array(head.length + body.length);
  signed.set(head);
  signed.set(body, head.length);
  const bytes = Uint8Array.from(signature[1].match(/../g), (digits) => parseInt(digits, 16));
  const matches = await Promise.all(keys.map((key) => crypto.subtle.verify('HMAC', key, bytes, signed)));
  return matches.includes(true);
}

function isKey(secret) {
  return typeof secret === 'string' && new TextEncoder().encode(secret).length >= KEY_BYTES_MIN;
}

function importKey(secret) {
  const algorithm = { name: 'HMAC', hash: 'SHA-256' };
  return crypto.subtle.importKey('raw', new TextEncoder().encode(secret), algorithm, false, ['verify']);
}

/** Reads a stream to its end, but no more than `most` bytes. */
async function readBody(stream, most) {
  if (stream === null) return new Uint8Array();
  const pieces = [];
  let length = 0;
  for await (const piece of stream) {
    length += piece.length;
    if (length > most) throw new Refusal(413, 7413, `the body is larger than ${most} bytes`);
    pieces.push(piece);
  }
  const body = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    body.set(piece, at);
    at += piece.length;
  }
  return body;
}

/**
 * The statements of a body, which is JSON or, as `application/gzip`, gzipped JSON. (Not `content-encoding`: what is in
 * between may undo that, and the signature is over what was sent.)
 */
async function readStatements(request, body) {
  const isGzip = request.headers.get('content-type') === 'application/gzip';
  const json = isGzip ? await unzip(body) : body;
  let asked;
  try {
    asked = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch {
    throw new Refusal(400, 7400, 'the body is no JSON');
  }
  const batch = asked?.batch;
  if (!Array.isArray(batch) || batch.length === 0 || batch.length > STATEMENTS_MAX) {
    throw new Refusal(400, 7400, `"batch" must be an array of 1 to ${STATEMENTS_MAX} statements`);
  }
  return batch.map((statement, index) => checked(statement, `batch[${index}]`));
}

function checked(statement, where) {
  const { sql, params = [] } = statement ?? {};
  if (typeof sql !== 'string' || new TextEncoder().encode(sql).length > SQL_BYTES_MAX) {
    throw new Refusal(400, 7400, `${where}.sql must be a text of at most ${SQL_BYTES_MAX} bytes`);
  }
  const isText = (value) => typeof value === 'string';
  if (!Array.isArray(params) || params.length > PARAMETERS_MAX || !params.every(isText)) {
    throw new Refusal(400, 7400, `${where}.params must be an array of at most ${PARAMETERS_MAX} strings`);
  }
  return { sql, params };
}

async function unzip(body) {
  try {
    const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream('gzip'));
    return await readBody(stream, JSON_BYTES_MAX);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(400, 7400, 'the body is no gzip file');
  }
}

/** Executes the statements as one transaction. */
async function execute(database, statements) {
  const prepared = statements.map(({ sql, params }) => database.prepare(sql).bind(...params));
  const results = await database.batch(prepared);
  return results.map(({ results, success, meta }) => ({ results, success, meta }));
}

function databases(env) {
  const names = Object.keys(env).filter((name) => isDatabase(env[name]));
  return [{ protocol: PROTOCOL, databases: names.sort() }];
}

function isDatabase(binding) {
  return typeof binding?.prepare === 'function' && typeof binding?.batch === 'function';
}

function answered(result) {
  return reply(200, { result, errors: [], messages: [], success: true });
}

function refused(status, code, message) {
  return reply(status, { result: [], errors: [{ code, message }], messages: [], success: false });
}

/** What D1 says, with the status that its REST API gives to it: 400 where the statement is to blame. */
function failed(error) {
  const message = error instanceof Error ? error.message : String(error);
  return refused(/SQLITE_|D1_TYPE_ERROR/.test(message) ? 400 : 500, 7500, message);
}

function reply(status, body) {
  return Response.json(body, { status, headers: { 'cache-control': 'no-store' } });
}
