import type { LinkOutcome } from './one-time-links.ts';
import type { SamplePerson } from './sample-people.ts';

const STYLE = `
body { font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 10vh auto; padding: 0 1rem; color-scheme: light dark; }
button { font: inherit; display: block; width: 100%; text-align: left; padding: .6rem .9rem; margin: .4rem 0; cursor: pointer; }
button span { opacity: .75; }
[role=alert] { border-left: 4px solid; padding-left: .8rem; }
`;

const page = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body><main>
<h1>${title}</h1>
${body}
</main></body>
</html>
`;

const SAID_OF_LINK: Readonly<Record<Exclude<LinkOutcome['kind'], 'good'>, string>> = {
  used: 'This sign-in link was used already; it works once. Choose somebody below.',
  expired: 'This sign-in link has expired. Choose somebody below.',
  unknown: 'This sign-in link is of an earlier start of the stack. Choose somebody below.',
};

/** The choice of the sample's people, and what became of a link that somebody followed. */
export const signInPage = (people: readonly SamplePerson[], outcome: LinkOutcome['kind'] | undefined): string => {
  const choices = people.map(({ subject, role, tenantId, about }) => {
    const what = tenantId === undefined ? 'platform operator' : `${role} of ${tenantId}`;
    return `<button name="subject" value="${escapeHtml(subject)}"><b>${escapeHtml(what)}</b> <span>${escapeHtml(about)}</span></button>`;
  });
  const alert = outcome === undefined || outcome === 'good' ? '' : `<p role="alert">${SAID_OF_LINK[outcome]}</p>`;
  return page(
    'Sign in to the embedded stack',
    `${alert}<p>This is a development sign-in, without passwords. Who do you want to be?</p>
<form method="post">${choices.join('\n')}</form>`,
  );
};

/** Ends the session with the provider; the form comes from oidc-provider. */
export const endSessionPage = (form: string): string =>
  page(
    'Signing out',
    `${form}
<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>
<script>document.querySelector('button').click()</script>`,
  );

/** Says what went wrong, and leads back to the console. */
export const errorPage = (message: string, consoleUrl: string): string =>
  page('Sign-in failed', `<p>${escapeHtml(message)}</p><p><a href="${escapeHtml(consoleUrl)}">To the console</a></p>`);

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
