// What stands behind the companion Worker's D1 bindings: the protocol that the runtime's own client for them speaks,
// statements in, rows and columns or an error out.

import { WorkerEntrypoint } from "cloudflare:workers";
import { Databases, run, serve } from "./databases.js";

export class Binding extends WorkerEntrypoint {
  async fetch(request) {
    const { env, ctx } = this;
    const databases = new Databases(env);
    const database = await databases.bound(ctx.props);
    const text = await request.text();
    const asked = JSON.parse(text);
    const all = Array.isArray(asked) ? asked : [asked];
    const statements = all.map(({ sql, params }) => ({ sql, params: params ?? [] }));
    return serve({ at: "binding", database, env, ctx }, async () => {
      const { results, error } = await run(databases, database, statements, text.length);
      if (error) return Response.json({ success: false, error });
      const answers = results.map(({ columns, rows, meta }) => ({ success: true, results: { columns, rows }, meta }));
      return Response.json(Array.isArray(asked) ? answers : answers[0]);
    });
  }
}
