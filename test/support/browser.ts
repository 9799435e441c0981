import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AxeBuilder } from '@axe-core/playwright';
import type { ExecutionContext } from 'ava';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import type { Identity, Stack } from '#deploy/local/stack.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { hasProgram } from './require.ts';

const PAGE_FOLDER = fileURLToPath(new URL('../../services/console/page/', import.meta.url));
const SCREENSHOTS = fileURLToPath(new URL('../screenshots/', import.meta.url));

// The rule of axe on colours.
const CONTRAST = 'color-contrast';

// Long enough for a machine with much else to do.
const DEADLINE_MS = 60_000;

/** Debian's name for the browser. */
export const CHROMIUM = 'chromium';

/** Whether the tests of the page can be run here. */
export const hasChromium = hasProgram(CHROMIUM);

/** How the page is looked at. */
export const LOOKS = {
  light: { colorScheme: 'light', viewport: { width: 1_280, height: 900 } },
  dark: { colorScheme: 'dark', viewport: { width: 1_280, height: 900 } },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 } },
} as const;

/** One of LOOKS. */
export type Look = keyof typeof LOOKS;

/** Starts Chromium without a window; throws unless the page is built from its present sources. */
export async function startBrowser(): Promise<Browser> {
  await checkBuild();
  // The tests run as root in CI, where Chromium's own sandbox cannot start.
  return chromium.launch({ executablePath: await pathOf(CHROMIUM), args: ['--no-sandbox', '--disable-dev-shm-usage'] });
}

/** A browser window of one person, and everything that went wrong in it. */
export interface Visitor {
  readonly page: Page;
  /** What the console of the browser said, and what was thrown and not caught. */
  readonly problems: readonly string[];
  close(): Promise<void>;
}

/** Opens a window for this person, signed in by a token of the stack. */
export async function openWindow(
  browser: Browser,
  { stack, consoleUrl, look = 'light' }: { stack: Pick<Stack, 'token'>; consoleUrl: string; look?: Look },
  identity: Identity,
): Promise<Visitor> {
  const { role, tenantId, subject = `${role}@${tenantId ?? 'platform'}`, scopes = SCOPES } = identity;
  const visitor = await openForStranger(browser, { consoleUrl, look });
  const context = visitor.page.context();
  await context.setExtraHTTPHeaders({ authorization: `Bearer ${await stack.token(identity)}` });
  // Signing in has a test of its own; here the token is what a session would have carried.
  await context.route('**/api/session', (route) =>
    route.fulfill({ json: { subject, tenant: tenantId, role, scopes } }),
  );
  return visitor;
}

/** Opens a window for somebody who is not signed in. */
export async function openForStranger(
  browser: Browser,
  { consoleUrl, look = 'light' }: { consoleUrl: string; look?: Look },
): Promise<Visitor> {
  const context: BrowserContext = await browser.newContext({
    ...LOOKS[look],
    baseURL: consoleUrl,
    reducedMotion: 'reduce',
  });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') {
      problems.push(`${message.text()} ${message.location().url}`);
    }
  });
  return { page, problems, close: () => context.close() };
}

/** Fails on every violation that axe calls serious or critical, and on what does not fit. */
export async function assertUsable(
  t: ExecutionContext<unknown>,
  page: Page,
  what: string,
  asked: 'everything' | 'contrast' | 'everything but contrast' = 'everything',
): Promise<void> {
  // Otherwise axe opens a page for each report. That is for frames of other origins, and this page has no frames.
  const axe = new AxeBuilder({ page }).setLegacyMode().options({ resultTypes: ['violations'] });
  if (asked === 'contrast') axe.withRules(CONTRAST);
  if (asked === 'everything but contrast') axe.disableRules(CONTRAST);
  const { violations } = await axe.analyze();
  const bad = violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`);
  t.deepEqual(bad, [], `${what}: axe`);
  await assertFits(t, page, what);
}

/**
 * Fails where what is shown cannot be used in light, in dark or at the width of a phone, and keeps a picture of each. The
 * window is a light one, and the page is not loaded again. Dark differs in colours alone, and the phone in all else.
 */
export async function assertUsableInEveryLook(t: ExecutionContext<unknown>, page: Page, name: string): Promise<void> {
  // A picture ends all transitions, so axe comes after it.
  await keepScreenshot(page, `${name}-light`);
  await assertUsable(t, page, `${name}, light`);
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.locator('html[data-mantine-color-scheme="dark"]').waitFor({ state: 'attached' });
  await keepScreenshot(page, `${name}-dark`);
  await assertUsable(t, page, `${name}, dark`, 'contrast');
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize(LOOKS.phone.viewport);
  await page.locator('html[data-mantine-color-scheme="light"]').waitFor({ state: 'attached' });
  await keepScreenshot(page, `${name}-phone`);
  await assertUsable(t, page, `${name}, phone`, 'everything but contrast');
  await page.setViewportSize(LOOKS.light.viewport);
}

/** Goes to another address without loading the page anew, as a link does. */
export const goWithin = (page: Page, path: string): Promise<void> =>
  page.evaluate(`history.pushState({}, '', ${JSON.stringify(path)})`);

/** Fails on a page that scrolls sideways, and where a button has no room for its words. */
export async function assertFits(t: ExecutionContext<unknown>, page: Page, what: string): Promise<void> {
  const overflow = await page.evaluate<number>(
    'document.documentElement.scrollWidth - document.documentElement.clientWidth',
  );
  t.is(overflow, 0, `${what}: nothing beyond the right edge`);
  const cut = await page.evaluate<string[]>(
    `[...document.querySelectorAll('.mantine-Button-label')]
       .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth).map(({ textContent }) => textContent)`,
  );
  t.deepEqual(cut, [], `${what}: every button shows all of its words`);
}

/** Keeps a picture for people to look at, as test/screenshots/NAME.png. */
export const keepScreenshot = (page: Page, name: string): Promise<Buffer> =>
  page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), animations: 'disabled' });

async function pathOf(program: string): Promise<string> {
  for (const folder of (process.env['PATH'] ?? '').split(':')) {
    const path = join(folder, program);
    if ((await stat(path).catch(() => undefined))?.isFile()) return path;
  }
  throw new Error(`${program} is not on the PATH`);
}

// A test of yesterday's page would prove nothing.
async function checkBuild(): Promise<void> {
  const built = await stat(join(PAGE_FOLDER, 'dist/index.html')).catch(() => undefined);
  const names = (await readdir(PAGE_FOLDER, { recursive: true })).filter((name) => !name.startsWith('dist'));
  const times = await Promise.all(names.map(async (name) => (await stat(join(PAGE_FOLDER, name))).mtimeMs));
  if (!built) throw new Error('The page is not built. Run `npm run build:page`.');
  if (built.mtimeMs < Math.max(...times)) {
    throw new Error('The page was built before its sources last changed. Run `npm run build:page`.');
  }
}
