// The databases of the rig, and how a request to one is served: its faults, its limits, its numbers.

import { brokenLimit } from "./limits.js";
import * as faults from "./faults.js";
import * as ledger from "./ledger.js";

// Every database the rig knows, by id and by name.
export class Databases {
  static #known = new Map();

  constructor(env) {
    this.env = env;
    this.registry = env.REGISTRY.get(env.REGISTRY.idFromName("registry"));
  }

  // { id, name, created_at }, or undefined.
  async find(idOrName) {
    if (!Databases.#known.has(idOrName)) await this.list();
    return Databases.#known.get(idOrName);
  }

  async list() {
    const all = await this.registry.databases();
    Databases.#known = new Map(all.flatMap((it) => [[it.id, it], [it.name, it]]));
    return all;
  }

  async create(name) {
    const created = await this.registry.create(crypto.randomUUID(), name);
    Databases.#known.clear();
    return created;
  }

  // The database behind a binding of the Worker, made where there is none; undefined for a binding that it has not.
  async bound(binding) {
    if (!Object.hasOwn(this.env.BINDINGS, binding)) return undefined;
    const name = this.env.BINDINGS[binding];
    return (await this.find(name)) ?? (await this.create(name)) ?? (await this.find(name));
  }

  async remove({ id }) {
    await this.registry.remove(id);
    await this.object(id).clear();
    Databases.#known.clear();
  }

  object(id) {
    return this.env.DATABASE.get(this.env.DATABASE.idFromName(id));
  }

  violate(rule, what) {
    return this.registry.violate(rule, what);
  }
}

// An application that reads: its requests are not counted, and get no fault.
const READER = "test-token-reader";

// Serves a request to a database, faults included.
export async function serve({ at, database, token, env, ctx }, apply) {
  if (token === READER) return await apply();
  const { id, name } = database;
  // A request through the Worker passes the gate and a binding, and is one.
  const end = at === "front" ? ledger.begin(name) : () => {};
  try {
    if (ledger.database(name).in_flight > 1) {
      await new Databases(env).violate("concurrent", `two requests at once to ${name}`);
    }
    const fault = faults.take(at, [id, name]);
    if (!fault) return await apply();
    ledger.countFault(name, fault.kind);
    if (fault.delay_ms) await scheduler.wait(fault.delay_ms);
    const seconds = faults.pauseSeconds(fault);
    if (fault.kind === "exhausted") {
      const answer = await apply();
      ledger.quiet(token, seconds);
      answer.headers.set("ratelimit", `"default";r=0;t=${seconds}`);
      return answer;
    }
    const answer = fault.applied ? await apply() : undefined;
    if (fault.kind === "slow") return answer ?? (await apply());
    if (seconds !== undefined) ledger.quiet(token, seconds);
    // workerd does not say when a client gives up, so one that sends again would look like two at once.
    if (fault.kind === "hang") end();
    return await faults.answer(fault, ctx, env);
  } finally {
    end();
  }
}

// Runs statements against a database within D1's limits: { results } or { error }.
export async function run(databases, { id, name }, statements, bytes) {
  const broken = brokenLimit(statements);
  const outcome = broken ? { error: broken.message, rule: broken.rule } : await databases.object(id).run(statements);
  ledger.count(name, bytes, statements.length, outcome.results);
  if (outcome.rule) await databases.violate(outcome.rule, `${name}: ${outcome.error}`);
  return outcome;
}
