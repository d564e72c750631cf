// The page in every state that it has, light and dark, wide and on a phone: for whoever cannot see it, and on pictures.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { badge, enterSecret, eventually, open, region, says, sentence, withBrowser } from "./browser.js";
import { engine } from "./engine.js";

const AXE = await readFile(new URL(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const DESK = { viewport: { width: 1280, height: 960 } };
const PHONE = { viewport: { width: 375, height: 812 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
/** Where pictures go, if anybody wants them. */
const pictures = process.argv[4];

async function isAccessible(page, what) {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(AXE);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
  assert.deepEqual(told, [], what);
}

async function hasNoSideways(page, what) {
  const [width, limit] = await page.evaluate(() => [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(width <= limit, `${what}: ${width} px on ${limit}`);
}

async function picture(page, name, options = {}) {
  if (!pictures) return;
  // Where the test's server is, is of no use to anybody.
  await page.evaluate((isPhone) => {
    const address = document.getElementById("address");
    if (isPhone) address.hidden = true;
    else address.style.visibility = "hidden";
  }, page.viewportSize().width < 768);
  await page.screenshot({ path: join(pictures, `${name}.png`), ...options });
}

/** Everything on the page that has to be asked for. */
async function showAll(page) {
  await page.locator("#row-key input").first().fill("7");
  await page.getByRole("button", { name: "Find it" }).click();
  await enterSecret(page);
  await says(page.locator("#row-result .result-line"), /./);
  await page.getByRole("button", { name: "Show them" }).click();
  await eventually(async () => (await page.locator("#letters-list .letter").count()) > 0, "dead letters");
  await page.locator("#row-result").scrollIntoViewIfNeeded();
}

/** Changes that go on, so that the charts have something to show. */
async function load(rounds) {
  for (let round = 0; round < rounds; round += 1) {
    const size = 200 + Math.round(150 * Math.sin(round / 3));
    await engine.sql(`UPDATE apps SET name = 'app ' || id || ' of round ${round}' WHERE id <= ${size}`);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

await withBrowser(async (browser) => {
  const light = await open(browser, { colorScheme: "light", ...DESK });
  const dark = await open(browser, { colorScheme: "dark", ...DESK });
  const phone = await open(browser, { colorScheme: "light", ...PHONE });
  const dim = await open(browser, { colorScheme: "dark", reducedMotion: "reduce", ...PHONE });
  const all = { light, dark, phone, dim };

  await says(sentence(light.page), /^All is well/);
  await load(pictures ? 200 : 4);
  for (const name of ["light", "dark"]) await isAccessible(all[name].page, `${name}, all well`);
  await picture(light.page, "well", { fullPage: true });

  // One is failing, one is paused, rows were set aside.
  await engine.lock("sa");
  await load(pictures ? 80 : 4);
  await says(badge(light.page, "sa"), "Failing");
  await picture(light.page, "failing");
  await picture(dark.page, "failing-dark");
  await picture(phone.page, "phone");
  await engine.sql("INSERT INTO apps SELECT 5000 + i, 'too large', 1.5 FROM generate_series(1, 3) i");
  await region(light.page, "oc").getByRole("button", { name: "Pause region oc" }).click();
  await isAccessible(light.page, "the question for the secret");
  await enterSecret(light.page);
  for (const [name, { page, trouble }] of Object.entries(all)) {
    await says(badge(page, "oc"), "Paused");
    await says(sentence(page), "2 of 6 regions are not right: sa and oc. The others go on.");
    if (name !== "light") await showAll(page);
    await isAccessible(page, `${name}, much to see to`);
    await hasNoSideways(page, name);
    assert.deepEqual(trouble, []);
  }
  assert.equal(await dim.page.locator("dialog").first().evaluate((dialog) => getComputedStyle(dialog).animationName), "none");
  await picture(dark.page, "everything-dark", { fullPage: true });
  for (const [name, part] of [["row", "#row"], ["letters", "#letters"], ["log", "#log"]]) {
    await phone.page.locator(part).evaluate((heading) => heading.scrollIntoView());
    await picture(phone.page, `phone-${name}`);
  }

  // By keyboard alone: the first stop skips to the regions, and every stop can be seen.
  const { page } = await open(browser);
  await says(badge(page, "oc"), "Paused");
  await page.keyboard.press("Tab");
  await says(page.locator(":focus"), "Skip to the regions");
  await page.keyboard.press("Enter");
  const stops = [];
  for (let stop = 0; stop < 19; stop += 1) {
    await page.keyboard.press("Tab");
    stops.push(await page.evaluate(() => document.activeElement.getAttribute("aria-label")));
    const outline = await page.locator(":focus").evaluate((element) => getComputedStyle(element).outlineStyle);
    assert.equal(outline, "solid");
  }
  // Between them are the rarer actions.
  const pauses = stops.filter((stop) => /^(Pause|Resume) region/.test(stop));
  assert.deepEqual(pauses.slice(0, 6), ["na", "eu", "asia", "sa", "oc", "af"].map((name) => `${name === "oc" ? "Resume" : "Pause"} region ${name}`));
  await engine.unlock("sa");
});
process.exit(0);
