// A region on D1 shows what it costs, and what its token may still send.

import assert from "node:assert/strict";
import { badge, figure, open, says, withBrowser } from "./browser.js";
import { engine } from "./engine.js";

await withBrowser(async (browser) => {
  const { page, trouble } = await open(browser);
  await says(badge(page, "weur"), "In step");
  // The first look came after these.
  await says(figure(page, "weur", "Cost"), /^[1-9]\d* rows written$/);
  await says(figure(page, "weur", "Requests left"), /^[\d,]+$/);
  assert.equal(await figure(page, "eu", "Cost").isVisible(), false);
  // A look at D1 is not free and comes every 20 seconds; what the engine knows is there at once.
  await engine.sql("INSERT INTO apps SELECT i FROM generate_series(101, 150) i");
  await says(figure(page, "weur", "Rows so far"), "60");
  // Nor is there a log, and the page says why.
  await says(page.locator("#log-note"), "No sync log is kept. Set [log] sync_file in walcast.toml.");
  assert.deepEqual(trouble, []);
});
process.exit(0);
