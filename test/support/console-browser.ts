/** A browser as far as sign-in is concerned: it keeps cookies by host and follows no redirect unless told to. */
export interface ConsoleBrowser {
  /** The cookies it would send, by name. */
  readonly cookies: Map<string, string>;
  /** One request, as this browser's page at the same origin sends it. */
  fetch(url: string | URL, init?: RequestInit): Promise<Response>;
  /** GETs as a person does and follows every redirect and form that submits itself; returns each answer of the way. */
  visit(url: string | URL): Promise<Response[]>;
}

/** Makes a browser without cookies, or with these. Hosts are told apart by name, not by port, as browsers do. */
export function makeBrowser(cookies: ReadonlyMap<string, string> = new Map()): ConsoleBrowser {
  const jar = new Map(cookies);
  const send: ConsoleBrowser['fetch'] = async (url, init = {}) => {
    const headers = new Headers(init.headers);
    if (!headers.has('cookie') && jar.size > 0)
      headers.set('cookie', [...jar].map(([name, value]) => `${name}=${value}`).join('; '));
    const response = await fetch(url, { redirect: 'manual', ...init, headers });
    for (const cookie of response.headers.getSetCookie()) {
      const [pair = '', ...attributes] = cookie.split(';');
      const at = pair.indexOf('=');
      const name = pair.slice(0, at).trim();
      const isOver = attributes.some(
        (each) => /max-age=0$/i.test(each.trim()) || /^expires=Thu, 01 Jan 1970/i.test(each.trim()),
      );
      if (isOver) jar.delete(name);
      else jar.set(name, pair.slice(at + 1));
    }
    return response;
  };
  const PERSON = { accept: 'text/html,application/xhtml+xml', 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate' };
  return {
    cookies: jar,
    fetch: send,
    async visit(url) {
      const answers: Response[] = [];
      let [next, init]: [URL | undefined, RequestInit] = [new URL(url), {}];
      while (next && answers.length < 20) {
        const answer = await send(next, { ...init, headers: { ...PERSON, ...init.headers } });
        answers.push(answer);
        const location = answer.status >= 300 && answer.status < 400 ? answer.headers.get('location') : null;
        const form = location === null ? formOf(await answer.clone().text()) : undefined;
        init = form?.init ?? {};
        next = location !== null ? new URL(location, next) : form && new URL(form.action, next);
      }
      return answers;
    },
  };
}

/** The form of a page that a script submits as soon as it is there; undefined where there is none. */
function formOf(page: string): { action: string; init: RequestInit } | undefined {
  if (!/document\.forms\[0\]\.submit\(\)/.test(page)) return undefined;
  const [, action = ''] = /<form method="post" action="([^"]+)"/.exec(page) ?? [];
  const fields = [...page.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)];
  return {
    action,
    init: {
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams(fields.map(([, name = '', value = '']) => [name, value])).toString(),
    },
  };
}

/** Chooses a person on the development provider's page, which `answer` is, and follows the way back to the console. */
export async function choosePerson(browser: ConsoleBrowser, answer: Response, subject: string): Promise<Response[]> {
  const chosen = await browser.fetch(answer.url, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ subject }).toString(),
  });
  const location = chosen.headers.get('location');
  if (location === null) throw new Error(`${subject} cannot be chosen: ${chosen.status} ${await chosen.text()}`);
  return [chosen, ...(await browser.visit(new URL(location, answer.url)))];
}

/** Signs one of the sample's people in to a console of the embedded stack, by the choice of the provider's page. */
export async function signIn(consoleUrl: string, subject: string): Promise<ConsoleBrowser> {
  const browser = makeBrowser();
  const [page] = (await browser.visit(`${consoleUrl}/auth/sign-in`)).slice(-1);
  if (!page) throw new Error('the provider has no sign-in page');
  await choosePerson(browser, page, subject);
  return browser;
}
