// What stands between a client and the companion Worker: every request goes on as it came, unless a fault was ordered.

import { WorkerEntrypoint } from "cloudflare:workers";
import { Databases, serve } from "./databases.js";

export class Gate extends WorkerEntrypoint {
  async fetch(request) {
    const { env, ctx } = this;
    const binding = /^\/v1\/databases\/(\w+)\/query$/.exec(new URL(request.url).pathname)?.[1];
    const database = await new Databases(env).bound(binding);
    const apply = () => env.WORKER.fetch(request);
    return database ? serve({ at: "front", database, env, ctx }, apply) : apply();
  }
}
