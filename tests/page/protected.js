// Where reading needs the secret, the page shows nothing until it has it.

import assert from "node:assert/strict";
import { enterSecret, open, says, sentence, withBrowser } from "./browser.js";

await withBrowser(async (browser) => {
  const { page, trouble } = await open(browser, { expected: ["status of 401"] });
  await page.getByRole("dialog").waitFor();
  await says(sentence(page), "Enter the secret to see how the regions are.");
  assert.equal(await page.locator("#region-list > *").count(), 0);
  await enterSecret(page, "a-guess");
  await says(page.locator("#secret-problem"), /the secret is not the right one/);
  assert.equal(await page.locator("#region-list > *").count(), 0);
  await enterSecret(page);
  await says(sentence(page), "All is well. All 6 regions are in step with Postgres.");
  await says(page.locator("#connection"), "Live");
  await page.getByRole("button", { name: "Forget the secret" }).click();
  await says(sentence(page), "Enter the secret to see how the regions are.");
  assert.equal(await page.locator("#region-list > *").count(), 0);
  assert.deepEqual(trouble, []);
});
process.exit(0);
