// What outlives a restart beside the databases: which there are, and how often which limit was broken.

import { DurableObject } from "cloudflare:workers";

export class Registry extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql.exec("CREATE TABLE IF NOT EXISTS databases (id TEXT PRIMARY KEY, name TEXT UNIQUE, created_at TEXT)");
    this.sql.exec("CREATE TABLE IF NOT EXISTS violations (rule TEXT PRIMARY KEY, times INTEGER, last TEXT)");
  }

  get sql() {
    return this.ctx.storage.sql;
  }

  databases() {
    return this.sql.exec("SELECT id, name, created_at FROM databases ORDER BY created_at, name").toArray();
  }

  // Returns the new database, or undefined where the name is taken.
  create(id, name) {
    const inserted = this.sql.exec(
      "INSERT INTO databases VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING id, name, created_at",
      id,
      name,
      new Date().toISOString(),
    );
    return inserted.toArray()[0];
  }

  remove(id) {
    this.sql.exec("DELETE FROM databases WHERE id = ?", id);
  }

  violate(rule, what) {
    this.sql.exec(
      "INSERT INTO violations VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET times = times + 1, last = excluded.last",
      rule,
      what,
    );
  }

  violations() {
    return this.sql.exec("SELECT rule, times, last FROM violations ORDER BY rule").toArray();
  }
}
