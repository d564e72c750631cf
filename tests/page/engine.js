// The other end of this script: the Rust test that started it, and that has the database, the regions and the engine.
// One order a line on standard output, one answer a line on standard input.

import { createInterface } from "node:readline";

/** Longer than anything may take, so that a script that hangs fails. */
const LIMIT_MS = 240_000;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
setTimeout(() => {
  console.error(`the script took longer than ${LIMIT_MS} ms`);
  process.exit(1);
}, LIMIT_MS).unref();

async function order(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
  const { done, value } = await answers.next();
  if (done) process.exit(1);
  return JSON.parse(value);
}

export const engine = {
  address: process.argv[2],
  secret: process.argv[3],
  /** Runs statements at the source; the last one's rows, columns joined by `|`. */
  sql: (sql) => order({ order: "sql", sql }),
  /** Runs statements in a region, behind the engine's back. */
  change: (sink, sql) => order({ order: "change", sink, sql }),
  /** The rows of a query in a region. */
  rows: (sink, sql) => order({ order: "rows", sink, sql }),
  /** Waits until the region is where the source is now. */
  catchUp: (sink) => order({ order: "catch-up", sink }),
  /** The region's checkpoint. */
  checkpoint: (sink) => order({ order: "checkpoint", sink }),
  /** Holds the region's write lock, so that the engine's writes fail. */
  lock: (sink) => order({ order: "lock", sink }),
  unlock: (sink) => order({ order: "unlock", sink }),
  stop: () => order({ order: "stop" }),
  /** Replaces schema.json, for the next start. */
  schema: (schema) => order({ order: "schema", schema }),
  /** Starts it again, at the same address. */
  start: () => order({ order: "start" }),
};
