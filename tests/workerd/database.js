// A D1 database: a Durable Object with SQLite storage, which is what D1 is made of.

import { DurableObject } from "cloudflare:workers";
import { brokenInSqlite } from "./limits.js";

const quoted = (name) => `"${name.replaceAll('"', '""')}"`;
// What JSON has no form for; D1 answers blobs as arrays of bytes.
const plain = (value) => (value instanceof ArrayBuffer ? Array.from(new Uint8Array(value)) : value);

export class Database extends DurableObject {
  // Copies of the content, by bookmark. They last as long as the process.
  copies = new Map();

  get sql() {
    return this.ctx.storage.sql;
  }

  // Runs the statements as one transaction. Returns { results } with columns, rows and meta per statement, or
  // { error, rule } with the message and the documented limit that it stands for, if it does.
  run(statements) {
    try {
      const results = this.ctx.storage.transactionSync(() => statements.map((statement) => this.#execute(statement)));
      const size_after = this.sql.databaseSize;
      for (const { meta } of results) meta.size_after = size_after;
      return { results };
    } catch (error) {
      return { error: error.message, rule: brokenInSqlite(error.message) };
    }
  }

  #execute({ sql, params }) {
    const started = performance.now();
    const cursor = this.sql.exec(sql, ...params);
    const columns = cursor.columnNames;
    const rows = Array.from(cursor.raw(), (row) => row.map(plain));
    const isWrite = cursor.rowsWritten > 0;
    const [changes, last_row_id] = isWrite
      ? this.sql.exec("SELECT changes(), last_insert_rowid()").raw().next().value
      : [0, 0];
    const duration = performance.now() - started;
    const meta = {
      served_by: "walcast-rig",
      served_by_region: "WEUR",
      served_by_colo: "AMS",
      served_by_primary: true,
      timings: { sql_duration_ms: duration },
      duration,
      changes,
      last_row_id,
      changed_db: isWrite,
      size_after: 0,
      rows_read: cursor.rowsRead,
      rows_written: cursor.rowsWritten,
    };
    return { columns, rows, meta };
  }

  // How many tables there are, and how large the file is.
  describe() {
    return { num_tables: this.#tables().length, file_size: this.sql.databaseSize };
  }

  #tables() {
    const rows = this.sql.exec(
      "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' " +
        "AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\'",
    );
    return rows.toArray();
  }

  // Keeps a copy of everything under the bookmark.
  keep(bookmark) {
    const tables = this.#tables().map(({ name, sql }) => {
      const columns = this.sql.exec(`SELECT name FROM pragma_table_info(?)`, name).raw().toArray().flat().map(quoted);
      const cells = columns.map((c) => `CASE typeof(${c}) WHEN 'integer' THEN CAST(${c} AS TEXT) ELSE ${c} END`);
      // The types in a second pass, since a result has as many columns as a table, at most.
      const types = columns.map((c) => `typeof(${c})`).join(" || ',' || ");
      return {
        name,
        sql,
        columns,
        rows: this.sql.exec(`SELECT ${cells} FROM ${quoted(name)}`).raw().toArray(),
        types: this.sql.exec(`SELECT ${types} FROM ${quoted(name)}`).raw().toArray().map(([row]) => row.split(",")),
      };
    });
    const others = this.sql.exec("SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL").raw();
    this.copies.set(bookmark, { tables, others: others.toArray().flat() });
  }

  // Makes the content what it was at the bookmark. Returns whether there is such a bookmark.
  restore(bookmark) {
    const copy = this.copies.get(bookmark);
    if (!copy) return false;
    this.ctx.storage.transactionSync(() => {
      this.clear();
      for (const { name, sql, columns, rows, types } of copy.tables) {
        this.sql.exec(sql);
        rows.forEach((row, at) => {
          const values = types[at].map((type) => (type === "integer" ? "CAST(? AS INTEGER)" : "?"));
          this.sql.exec(`INSERT INTO ${quoted(name)} (${columns}) VALUES (${values})`, ...row);
        });
      }
      for (const sql of copy.others) this.sql.exec(sql);
    });
    return true;
  }

  // Drops everything.
  clear() {
    for (const { name } of this.#tables()) this.sql.exec(`DROP TABLE ${quoted(name)}`);
    for (const [type, name] of this.sql.exec("SELECT type, name FROM sqlite_schema WHERE type = 'view'").raw()) {
      this.sql.exec(`DROP ${type} ${quoted(name)}`);
    }
  }
}
