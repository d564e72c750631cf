// Each control does what it says, on a real engine with six regions.

import assert from "node:assert/strict";
import { badge, enterSecret, eventually, figure, open, region, says, sentence, withBrowser } from "./browser.js";
import { engine } from "./engine.js";

const ALL_WELL = "All is well. All 6 regions are in step with Postgres.";
const AWAY = ["net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET", "net::ERR_EMPTY_RESPONSE"];

async function wellAtAGlance({ page }) {
  await says(sentence(page), ALL_WELL);
  assert.equal(await page.title(), "✓ walcast");
  assert.deepEqual(await page.locator("#region-list h3").allTextContents(), ["na", "eu", "asia", "sa", "oc", "af"]);
  await says(badge(page, "eu"), "In step");
  await says(page.locator("#connection"), "Live");
  assert.match(await page.locator("#source-panel").textContent(), /Server\s*Postgres \d+(?=.*walcast: ready)(?=.*Room left\s*8\.0\sGiB).*WAL held back, of what the server keeps/s);
  assert.deepEqual(await page.locator("#table-list .strong").allTextContents(), ["apps", "versions"]);
  // What the page says changes with the engine, without a reload.
  await engine.sql("INSERT INTO apps SELECT i, 'app ' || i, i FROM generate_series(1, 500) i");
  await says(figure(page, "eu", "Rows so far"), "500");
  assert.match(await region(page, "eu").locator(".sparkline").getAttribute("aria-label"), /^Bytes behind over the last/);
  // A route that this engine has not is not offered, and one that it has is.
  const description = await (await fetch(`http://${engine.address}/openapi.json`)).json();
  for (const [name, path] of [["Sync now", "/sync"], ["Retry them", "/retry-failed"], ["Backfill…", "/backfill"], ["Nuke…", "/nuke"]]) {
    const button = page.getByRole("button", { name, exact: true, includeHidden: true }).first();
    await eventually(async () => (await button.isVisible()) === (description.paths[path] !== undefined), `${name} to be offered or not`);
  }
}

async function aWrongSecretIsTold({ page }) {
  await region(page, "na").getByRole("button", { name: "Pause region na" }).click();
  await page.getByRole("dialog").waitFor();
  for (const wrong of ["a-guess", "schlüssel"]) {
    await enterSecret(page, wrong);
    await says(page.locator("#secret-problem"), /the secret is not the right one/);
  }
  assert.equal(await page.evaluate(() => document.activeElement.id), "secret-input");
  // Whoever gives up has changed nothing.
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await says(badge(page, "na"), "In step");
}

async function pauseAndResume({ page }) {
  await region(page, "na").getByRole("button", { name: "Pause region na" }).click();
  await enterSecret(page);
  await says(badge(page, "na"), "Paused");
  await says(sentence(page), "Region na is paused. The others go on.");
  const before = await engine.checkpoint("na");
  await engine.sql("INSERT INTO apps SELECT i, 'while paused', i FROM generate_series(1001, 1100) i");
  await engine.catchUp("eu");
  assert.equal(await engine.checkpoint("na"), before);
  assert.deepEqual(await engine.rows("na", "SELECT count(*) FROM apps WHERE id > 1000"), ["0"]);
  assert.deepEqual(await engine.rows("eu", "SELECT count(*) FROM apps WHERE id > 1000"), ["100"]);
  await says(region(page, "na").locator(".big"), /^[1-9]\d*\ss$/);
  // By keyboard, and the secret is not asked for again.
  await region(page, "na").getByRole("button", { name: "Resume region na" }).focus();
  await page.keyboard.press("Enter");
  await says(badge(page, "na"), "In step");
  await engine.catchUp("na");
  assert.deepEqual(await engine.rows("na", "SELECT count(*) FROM apps WHERE id > 1000"), ["100"]);
  await says(sentence(page), ALL_WELL);
}

async function aFailingRegionIsNamed({ page }) {
  await engine.lock("sa");
  await engine.sql("INSERT INTO apps VALUES (2001, 'while sa is locked', 1)");
  await says(badge(page, "sa"), "Failing");
  await says(sentence(page), "Region sa is failing. The others go on.");
  await says(region(page, "sa").locator(".reason"), /database is locked/);
  await says(badge(page, "af"), "In step");
  // Down for long, it is the same to everybody who asks.
  const get = (path) => fetch(`http://${engine.address}${path}`);
  const sinks = async () => (await (await get("/status")).json()).sinks;
  await eventually(async () => (await sinks()).find(({ name }) => name === "sa").engine.failed_attempts >= 3, "three failed attempts");
  const [live, ready, metrics] = [await get("/livez"), await get("/readyz"), await (await get("/metrics")).text()];
  assert.deepEqual([live.status, ready.status], [200, 503]);
  assert.deepEqual((await ready.json()).problems.map(({ subject }) => subject), ["sink sa"]);
  for (const { name, state } of await sinks()) {
    assert.equal(state, name === "sa" ? "failing" : "attached");
    assert.ok(metrics.includes(`walcast_sink_state{sink="${name}",state="${state}"} 1\n`), name);
    await says(badge(page, name), name === "sa" ? "Failing" : "In step");
  }
  await says(page.locator("#findings li .strong"), "Region sa");
  assert.equal(await page.title(), "✗ 1 · walcast");
  await engine.unlock("sa");
  await says(sentence(page), ALL_WELL);
}

async function whereIsMyRow({ page }) {
  await engine.catchUp("asia");
  await engine.change("asia", "UPDATE apps SET name = 'another' WHERE id = 7");
  const find = async (table, ...key) => {
    await page.locator("#row-table").selectOption(table);
    const fields = page.locator("#row-key input");
    assert.equal(await fields.count(), key.length);
    for (const [index, part] of key.entries()) await fields.nth(index).fill(part);
    await page.getByRole("button", { name: "Find it" }).click();
  };
  const card = (name) => page.locator("#row-result article").filter({ has: page.getByRole("heading", { name, exact: true }) });
  await find("apps", "7");
  await says(page.locator("#row-result .result-line"), "One region differs: asia.");
  await says(card("eu").locator(".badge"), "Equal");
  await says(card("asia").locator(".badge"), "Differs");
  assert.deepEqual(await card("asia").locator(".differs .value").allTextContents(), ["another"]);
  assert.match(await card("Postgres").textContent(), /nameapp 7/);
  await find("apps", "999999");
  await says(page.locator("#row-result .result-line"), "Every region has it as it should be.");
  await find("apps", "seven");
  await says(page.locator("#row-result .problem"), "the key does not have the form of table apps's key");
  // A key of two columns, with what a path and JSON have to escape.
  await engine.sql(`INSERT INTO versions VALUES (7, '1.0/β "x"? #%', 'ok')`);
  await engine.catchUp("eu");
  await find("versions", "7", '1.0/β "x"? #%');
  await says(card("eu").locator(".badge"), "Equal");
}

async function deadLetters({ page }) {
  await engine.sql("INSERT INTO apps SELECT 3000 + i, 'too large', 1.5 FROM generate_series(1, 60) i");
  await says(page.locator("#letters-count"), /60 in na, 60 in eu/);
  await says(sentence(page), "All 6 regions are in step, but there is something to see to.");
  const letters = page.locator("#letters-list .letter");
  await page.locator("#letters-sink").selectOption("eu");
  await page.getByRole("button", { name: "Show them" }).click();
  await eventually(async () => (await letters.count()) === 50, "a page of dead letters");
  assert.match(await letters.first().textContent(), /apps \[3001\].*size.*eu: insert of/s);
  await page.locator("#letters-more").click();
  await eventually(async () => (await letters.count()) === 60, "the rest of them");
  await page.locator("#letters-table").selectOption("versions");
  await page.getByRole("button", { name: "Show them" }).click();
  await says(page.locator("#letters-list"), "There are none.");
}

async function theLog({ page }) {
  const entries = page.locator("#log-list .entry");
  const regions = () => page.locator("#log-list .entry .strong").allTextContents();
  await eventually(async () => new Set(await regions()).size === 6, "entries of all regions");
  await page.locator("#log-sink").selectOption("oc");
  await eventually(async () => (await regions()).length > 0 && (await regions()).every((name) => name === "oc"), "only oc's entries");
  // New ones come by themselves, and pass the same filter.
  const before = await entries.count();
  await engine.sql("UPDATE apps SET name = name || '!' WHERE id BETWEEN 1 AND 37");
  await says(entries.first(), /37 rows in \d transactions?/);
  assert.ok((await regions()).every((name) => name === "oc") && (await entries.count()) > before);
  await page.locator("#log-sink").selectOption("sa");
  await page.locator("#log-outcome").selectOption("failed");
  await says(entries.first().locator(".badge"), "failed");
  await says(entries.first().locator(".reason"), /database is locked/);
  // Of one row, with what has just come.
  await page.locator("#log-outcome").selectOption("");
  await page.locator("#log-table").selectOption("apps");
  await page.locator("#log-key input").fill("999999");
  await page.keyboard.press("Enter");
  await says(page.locator("#log-note"), "There is nothing yet that fits.");
  await page.locator("#log-key input").fill("37");
  await page.keyboard.press("Enter");
  await says(page.locator("#log-note"), "");
  await says(entries.first(), /37 rows in/);
  const touched = await entries.count();
  await engine.sql("UPDATE apps SET name = name || '?' WHERE id = 38");
  await engine.sql("UPDATE apps SET name = name || '?' WHERE id = 37");
  await eventually(async () => (await entries.count()) === touched + 1, "the entry of the row's change");
  await page.locator("#log-table").selectOption("");
  assert.equal(await page.locator("#log-key input").count(), 0);
  await page.locator("#log-since").fill("2099-01-01T00:00:00");
  await says(page.locator("#log-note"), "There is nothing yet that fits.");
  assert.equal(await entries.count(), 0);
  await page.locator("#log-form").getByRole("button", { name: "Show all" }).click();
  await eventually(async () => new Set(await regions()).size === 6, "entries of all regions again");
  // More than a page.
  const more = page.locator("#log-more");
  const ids = () => entries.evaluateAll((items) => items.map((item) => Number(item.dataset.id)));
  while (await more.isVisible()) {
    const shown = await entries.count();
    await more.click();
    await eventually(async () => (await entries.count()) > shown || !(await more.isVisible()), "older entries");
  }
  const all = await ids();
  assert.deepEqual(all, [...all].sort((one, other) => other - one));
  assert.equal(new Set(all).size, all.length);
}

async function aLostConnection({ page }) {
  await engine.stop();
  await says(sentence(page), "The connection to walcast is lost. What is shown may be out of date.");
  await says(page.locator("#connection"), /^Connection lost, .* old, trying again in \d+\ss$/);
  await engine.sql("INSERT INTO versions VALUES (8, '2.0', 'while it was away')");
  await engine.start();
  await says(page.locator("#connection"), "Live");
  await says(sentence(page), "All 6 regions are in step, but there is something to see to.");
  await eventually(async () => (await page.locator("#log-list .entry").first().textContent()).includes("1 row in "), "the newest entry");
}

async function aTableIsFilled({ page }) {
  const row = (name) => page.locator("#table-list .table").filter({ has: page.locator(".strong").getByText(name, { exact: true }) });
  await says(row("apps").locator(".badge").first(), "Live in every region");
  await engine.stop();
  await engine.sql("CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late SELECT i, 'v' || i FROM generate_series(1, 100000) i; ANALYZE late");
  const columns = { id: "INTEGER", name: "TEXT", size: "INTEGER" };
  await engine.schema({
    apps: { primaryKey: "id", columns },
    versions: { primaryKey: ["app", "version"], columns: { app: "INTEGER", version: "TEXT", state: "TEXT" } },
    late: { primaryKey: "id", columns: { id: "INTEGER", v: "TEXT" } },
  });
  await engine.start();
  // Before its rows are there.
  const headers = { authorization: `Bearer ${engine.secret}` };
  await eventually(async () => (await fetch(`http://${engine.address}/sinks/eu/pause`, { method: "POST", headers }).catch(() => null))?.ok, "eu to be paused");
  await says(badge(page, "eu"), "Paused");
  await says(row("late").locator(".fills li").filter({ hasText: /^eu: / }), /^eu: (filling, [\d,]+ of about [\d,]+ rows|waiting to be filled)/);
  await page.getByRole("button", { name: "Resume region eu" }).click();
  await says(row("late").locator(".badge").first(), "Live in every region");
  assert.equal(await row("late").locator(".fills").isVisible(), false);
  assert.deepEqual(await engine.rows("eu", "SELECT count(*) FROM late"), ["100000"]);
}

/** Of an engine that has these routes. */
async function syncAndRetry({ page }) {
  const { paths } = await (await fetch(`http://${engine.address}/openapi.json`)).json();
  const said = (text) => says(page.locator("#toasts .toast").last(), text);
  if (paths["/sync"]) {
    await page.getByRole("button", { name: "Sync now" }).click();
    await said(/^Sync: done/);
  }
  if (paths["/retry-failed"]) {
    await engine.sql("UPDATE apps SET size = 1 WHERE id BETWEEN 3001 AND 3060");
    for (const name of ["na", "eu"]) await engine.catchUp(name);
    await page.locator("#letters-table").selectOption("apps");
    await page.locator("#letters-sink").selectOption("eu");
    await page.getByRole("button", { name: "Retry them" }).click();
    await said(/^Retry of dead letters: done/);
    await says(page.locator("#letters-list"), "There are none.");
    assert.deepEqual(await engine.rows("eu", "SELECT count(*) FROM _walcast_dead_letters"), ["0"]);
    assert.deepEqual(await engine.rows("na", "SELECT count(*) FROM _walcast_dead_letters"), ["60"]);
  }
}

/** Of an engine that has these routes, too. */
async function nukeNeedsTheName({ page }) {
  const { paths } = await (await fetch(`http://${engine.address}/openapi.json`)).json();
  if (!paths["/nuke"]) return;
  await engine.catchUp("af");
  const before = await engine.rows("af", "SELECT * FROM versions ORDER BY app, version");
  await region(page, "af").getByRole("button", { name: "Nuke region af…" }).click();
  const sure = page.getByRole("button", { name: "Drop and fill anew" });
  const typed = page.locator("#scope-typed");
  await page.locator("#scope-table").selectOption("versions");
  for (const wrong of ["", "af", "versions", "AF/versions"]) {
    await typed.fill(wrong);
    assert.ok(await sure.isDisabled(), wrong);
  }
  await engine.change("af", "DELETE FROM versions");
  await typed.fill("af/versions");
  await sure.click();
  await says(page.locator("#toasts .toast").last(), /^Nuke of af\/versions: done/);
  assert.deepEqual(await engine.rows("af", "SELECT * FROM versions ORDER BY app, version"), before);
}

async function theSecretIsForgotten({ page }) {
  await page.getByRole("button", { name: "Forget the secret" }).click();
  assert.equal(await page.locator("#letters-list > *").count(), 0);
  await region(page, "na").getByRole("button", { name: "Pause region na" }).click();
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.equal(kept, '[{},{},""]');
}

await withBrowser(async (browser) => {
  const opened = await open(browser, { expected: ["status of 401", "status of 400", ...AWAY] });
  for (const step of [
    wellAtAGlance, aWrongSecretIsTold, pauseAndResume, aFailingRegionIsNamed, whereIsMyRow, deadLetters, theLog,
    aLostConnection, aTableIsFilled, syncAndRetry, nukeNeedsTheName, theSecretIsForgotten,
  ]) {
    console.error(`- ${step.name}`);
    await step(opened);
    assert.deepEqual(opened.trouble, []);
  }
});
process.exit(0);
