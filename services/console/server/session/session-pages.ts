/** A page that says why the sign-in failed and offers to try again. */
export const signInErrorPage = (message: string, signInPath: string): string =>
  page(
    'Sign-in failed',
    `<p>${escapeHtml(message)}</p>
<p><a href="${escapeHtml(signInPath)}">Sign in again</a></p>`,
  );

/** A page that leads on to where the provider's session ends. */
export const signedOutPage = (location: string): string =>
  page(
    'Signed out',
    `<p><a href="${escapeHtml(location)}">Continue</a></p>`,
    `<meta http-equiv="refresh" content="0; url=${escapeHtml(location)}">`,
  );

// Without scripts and styles, so that the content policy has nothing to allow.
const page = (title: string, body: string, head = ''): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
${head}
<title>${title} - Lethe</title>
</head>
<body>
<main>
<h1>${title}</h1>
${body}
</main>
</body>
</html>
`;

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
