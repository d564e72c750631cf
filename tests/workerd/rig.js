// The rig's ways in. Default: D1's REST API below /client/v4, and what tests order and read below /__. `Gate` and
// `Binding` are before and behind the companion Worker.

import { Binding } from "./binding.js";
import { Database } from "./database.js";
import { Databases } from "./databases.js";
import { Gate } from "./gate.js";
import { Registry } from "./registry.js";
import { control } from "./control.js";
import { rest } from "./rest.js";

export { Binding, Database, Gate, Registry };

export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const databases = new Databases(env);
    return url.pathname.startsWith("/__")
      ? control(request, url, databases)
      : rest(request, url, { databases, env, ctx });
  },
};
