// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/;

/**
 * Whether text is free of control characters, except tabs and line breaks, and of halves of surrogate pairs. Postgres
 * holds neither U+0000 nor such halves.
 */
export const isPlainText = (text: string): boolean => !CONTROL.test(text) && text.isWellFormed();
