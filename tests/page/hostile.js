// Names and values that would like to be markup are shown as the text that they are.

import assert from "node:assert/strict";
import { enterSecret, eventually, open, says, withBrowser } from "./browser.js";
import { engine } from "./engine.js";

const [names, values] = JSON.parse(process.argv[4]);

await withBrowser(async (browser) => {
  const { page, trouble } = await open(browser, { expected: ["status of 400"] });
  const markup = await page.locator("*").evaluateAll((all) => new Set(all.map(({ localName }) => localName)).size);
  const has = async (locator, text) => eventually(async () => (await locator.allTextContents()).includes(text), `the page to show ${text.slice(0, 80)}`);
  for (const name of names) await has(page.locator("#table-list .strong"), name);

  // Rows: the key's column is as hostile as the values.
  for (const [index, value] of values.entries()) {
    await page.locator("#row-table").selectOption(names[0]);
    await page.locator("#row-key input").fill(String(index));
    await page.getByRole("button", { name: "Find it" }).click();
    if (index === 0) await enterSecret(page);
    await says(page.locator("#row-result .result-line"), "Every region has it as it should be.");
    const letters = [...value];
    const shown = letters.length > 4096 ? `${letters.slice(0, 4096).join("")}… (${Buffer.byteLength(value)} bytes)` : value;
    await eventually(async () => (await page.locator("#row-result .value").allTextContents()).filter((text) => text === shown).length === 7,
      `seven copies of ${shown.slice(0, 80)}`);
  }
  // A table that is not there, of that name, is refused with the key in nobody's markup.
  await page.locator("#row-key input").fill(values[0]);
  await page.getByRole("button", { name: "Find it" }).click();
  await says(page.locator("#row-result .problem"), /the key does not have the form/);

  // Dead letters: with each value as a key, in a table that takes none of them.
  await page.getByRole("button", { name: "Show them" }).click();
  for (const value of values) await has(page.locator("#letters-list .code"), JSON.stringify([value]));
  for (const name of await page.locator("#letters-table option").allTextContents()) assert.ok(name === "all" || names.includes(name));

  // The log: an error that says what a trigger made of it.
  await says(page.locator("#log-list .reason").first(), new RegExp(values[0].replace(/[.*+?^${}()|[\]\\]/g, "\\$&")));

  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("main img, main script, main iframe, main b").count(), 0);
  assert.ok(markup > 0);
  assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= window.innerWidth), "nothing is wider than the window");
  await page.setViewportSize({ width: 375, height: 812 });
  assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= 375), "nor than a phone");
  assert.deepEqual(trouble, []);

  // What is counted as zero above, is counted: a script that somebody did get in is stopped and seen.
  await page.evaluate(() => {
    const script = document.createElement("script");
    try {
      script.textContent = "window.hacked = true";
      document.body.append(script);
    } catch { /* Refused before it was in. */ }
    try {
      document.body.innerHTML = "<img src=x onerror='window.hacked = true'>";
    } catch { /* The same. */ }
  });
  await eventually(async () => trouble.some((what) => what.startsWith("policy: ")), "the violation to be seen");
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});
process.exit(0);
