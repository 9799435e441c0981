/** The common table expressions of a text that write, each without the name and the parentheses. */
export function writingClauses(text: string): readonly string[] {
  return [...text.matchAll(/[\w${}()]+ as (?:(?:not )?materialized )?\(/g)]
    .map((opening) => inParentheses(text, opening.index + opening[0].length))
    .filter((body) => /^\s*(?:insert|update|delete)\s/i.test(body));
}

/** Whether a text is a statement that writes, or a piece of one. */
export const isWriting = (text: string): boolean =>
  /\binsert into\b|\bdelete from\b|\bset\s|^\s*(?:\$\{\w+\},\s*)?\w+ = /i.test(text);

/**
 * The CASE and COALESCE of a text, outermost ones, each with all that it holds. Those of sub-selects are not among them,
 * unless the sub-select stands in one.
 */
export function conditionals(text: string): readonly string[] {
  const found: string[] = [];
  const plain = withoutTexts(text);
  for (let at = 0; at < plain.length; ) {
    const [word = ''] = /^(?:coalesce\s*\(|case\b|\(\s*select\b|[\w$]+|.)/is.exec(plain.slice(at)) ?? [];
    const isClause = /\bas (?:(?:not )?materialized )?$/i.test(plain.slice(0, at));
    let end = at + word.length;
    if (/^case$/i.test(word)) end = endOfCase(plain, end);
    else if (/^coalesce/i.test(word)) end += inParentheses(plain, end).length;
    else if (word.startsWith('(') && word.length > 1 && !isClause) end = at + 1 + inParentheses(plain, at + 1).length;
    if (/^(?:case|coalesce\s*\()$/i.test(word)) found.push(plain.slice(at, end));
    at = end;
  }
  return found;
}

/** The functions that an expression calls, and `interval` where it reckons with one. */
export const functionsOf = (expression: string): readonly string[] => [
  ...[...expression.matchAll(/\b(\w+)\s*\(/g)].map(([, name = '']) => name.toLowerCase()),
  ...(/\binterval\b/i.test(expression) ? ['interval'] : []),
];

/** The text with comments and what stands in quotes blanked: neither is looked into. */
const withoutTexts = (text: string): string =>
  text.replaceAll(/--[^\n]*|'(?:[^']|'')*'/g, (part) => (part.startsWith('--') ? '' : "''"));

/** What stands from there to the parenthesis that closes. */
function inParentheses(text: string, start: number): string {
  let depth = 1;
  for (let at = start; at < text.length; at += 1) {
    if (text[at] === '(') depth += 1;
    else if (text[at] === ')') depth -= 1;
    if (depth === 0) return text.slice(start, at);
  }
  return text.slice(start);
}

function endOfCase(text: string, start: number): number {
  let depth = 1;
  for (const word of text.slice(start).matchAll(/\b(?:case|end)\b/gi)) {
    depth += word[0].toLowerCase() === 'case' ? 1 : -1;
    if (depth === 0) return start + word.index + word[0].length;
  }
  return text.length;
}
