// A Chromium with the page open, and what went wrong in it.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { engine } from "./engine.js";

const ARGUMENTS = [
  "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/** Runs `test` with a browser, and ends it whatever comes. */
export async function withBrowser(test) {
  const isRoot = process.getuid() === 0;
  const browser = await chromium.launch({
    executablePath: process.env.WALCAST_CHROMIUM ?? "/usr/bin/chromium",
    args: isRoot ? [...ARGUMENTS, "--no-sandbox"] : ARGUMENTS,
  });
  try {
    await test(browser);
  } finally {
    await browser.close();
  }
}

/**
 * Opens the page. `trouble` gathers everything that a good page never does: errors, violations of its policy, requests
 * to elsewhere. `expected` are console messages that a test provokes.
 */
export async function open(browser, { expected = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const trouble = [];
  page.on("pageerror", (error) => trouble.push(`error: ${error}`));
  page.on("console", (message) => {
    const isTrouble = ["error", "warning"].includes(message.type());
    if (isTrouble && !expected.some((text) => message.text().includes(text))) trouble.push(`${message.type()}: ${message.text()}`);
  });
  page.on("dialog", (dialog) => {
    trouble.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.host !== engine.address) trouble.push(`request: ${url}`);
  });
  await page.exposeFunction("reportViolation", (what) => trouble.push(`policy: ${what}`));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  await page.goto(`http://${engine.address}/`);
  return { page, context, trouble };
}

/** Types the secret into the dialog that is open. */
export async function enterSecret(page, secret = engine.secret) {
  await page.getByLabel("Secret", { exact: true }).fill(secret);
  await page.getByRole("button", { name: "Continue" }).click();
}

export const sentence = (page) => page.locator("#sentence");
export const region = (page, name) => page.locator(`article[data-region="${name}"]`);
/** A figure of a region, by its label. */
export const figure = (page, name, label) => region(page, name).locator("dl > div").filter({ hasText: label }).locator("dd");
export const badge = (page, name) => region(page, name).locator(".badge-word");

/** Waits until the locator's text is, or matches, what is wanted. */
export async function says(locator, wanted) {
  const isSo = (text) => (wanted instanceof RegExp ? wanted.test(text) : text === wanted);
  await eventually(async () => isSo(((await locator.textContent({ timeout: 1000 }).catch(() => null)) ?? "").trim()),
    async () => `${locator} to say ${wanted}, and not ${JSON.stringify(await locator.allTextContents())}`);
}

/** Looks until there is a true answer. */
export async function eventually(look, what) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, `waited too long for ${typeof what === "function" ? await what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
