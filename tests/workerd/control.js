// What tests order and read: POST /__fault, DELETE /__fault?db=, POST /__limit, /__bookmark, /__restore, /__recreate
// and GET /__stats.

import * as faults from "./faults.js";
import * as ledger from "./ledger.js";
import { allowStatements } from "./limits.js";

const refused = (message, status = 400) => Response.json({ error: message }, { status });

export async function control(request, url, databases) {
  const body = request.method === "POST" ? await request.json() : {};
  switch (`${request.method} ${url.pathname}`) {
    case "GET /__stats":
      return Response.json(await stats(databases));
    case "POST /__fault": {
      const why = faults.order(body);
      return why ? refused(why) : Response.json({});
    }
    case "DELETE /__fault":
      faults.clear(url.searchParams.get("db") ?? undefined);
      return Response.json({});
    case "POST /__limit":
      if (body.statements) allowStatements(body.statements);
      else ledger.setLimit(body.requests, body.window_s);
      return Response.json({});
  }
  const database = await databases.find(body.db);
  if (!database) return refused(`there is no ${request.method} ${url.pathname}, or no database ${body.db}`, 404);
  const object = databases.object(database.id);
  switch (`${request.method} ${url.pathname}`) {
    case "POST /__bookmark": {
      const bookmark = body.bookmark ?? crypto.randomUUID();
      await object.keep(bookmark);
      return Response.json({ bookmark });
    }
    case "POST /__restore":
      return (await object.restore(body.bookmark)) ? Response.json({}) : refused("there is no such bookmark", 404);
    case "POST /__recreate":
      await object.clear();
      return Response.json({});
    default:
      return refused(`there is no ${request.method} ${url.pathname}`, 404);
  }
}

async function stats(databases) {
  const violations = await databases.registry.violations();
  const files = (await databases.list()).map(({ id, name }) => [name, { id, file: fileOf(databases, id) }]);
  return {
    violations: violations.reduce((sum, { times }) => sum + times, 0),
    violated: Object.fromEntries(violations.map(({ rule, times, last }) => [rule, { times, last }])),
    known: Object.fromEntries(files),
    ...ledger.numbers(),
  };
}

// Below the rig's data directory; readable with any SQLite while the rig is stopped.
const fileOf = ({ env }, id) => `database/${env.DATABASE.idFromName(id)}.sqlite`;
