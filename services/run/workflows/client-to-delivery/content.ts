import { fingerprint } from '#libs/kernel/fingerprint.ts';

/** What a client wants, as it was briefed. */
export interface Brief {
  readonly client: string;
  readonly product: string;
  readonly audience: string;
  readonly tone: string;
  readonly goals: readonly string[];
  readonly channels: readonly string[];
}

/** One channel's asset. */
export interface Asset {
  readonly channel: string;
  readonly headline: string;
  readonly copy: string;
}

/** Something that quality control found. */
export interface QcIssue {
  readonly rule: string;
  readonly severity: 'BLOCKER' | 'MINOR';
  readonly message: string;
}

/** One file of a delivery. */
export interface DeliveredFile {
  readonly name: string;
  readonly content: string;
  readonly bytes: number;
  readonly digest: string;
}

const MAX_HEADLINE = 80;
const POINTS = { BLOCKER: 40, MINOR: 5 } as const;
const FULL_SCORE = 100;

/** The brief without what typing left in it: spaces run together, doublets gone, channels in lower case. */
export function normalise(brief: Brief): Brief {
  const tidy = (text: string): string => text.trim().replace(/\s+/g, ' ');
  const distinct = (texts: readonly string[]): string[] => [...new Set(texts.map(tidy).filter((text) => text !== ''))];
  return {
    client: tidy(brief.client),
    product: tidy(brief.product),
    audience: tidy(brief.audience),
    tone: tidy(brief.tone).toLowerCase(),
    goals: distinct(brief.goals),
    channels: distinct(brief.channels.map((channel) => channel.toLowerCase())),
  };
}

/** One paragraph that says what was asked for. */
export const summarise = ({ client, product, audience, goals, channels }: Brief): string =>
  `${client} wants ${product} brought to ${audience} through ${listed(channels)}, in order to ${listed(goals)}.`;

/** How the goals are to be reached: a title and a paragraph for each goal. */
export function plan({ product, audience, tone, goals, channels }: Brief): { title: string; body: string } {
  const paragraphs = goals.map((goal, index) => {
    const channel = channels[index % channels.length];
    return `${index + 1}. To ${goal}, speak to ${audience} in a ${tone} tone, first of all through ${channel}.`;
  });
  return { title: `How ${product} reaches ${audience}`, body: paragraphs.join('\n') };
}

/** The text that all assets are cut from. */
export const draft = (brief: Brief, strategy: { readonly title: string; readonly body: string }): string =>
  [`${brief.product} for ${brief.audience}`, summarise(brief), strategy.body].join('\n\n');

/** One asset a channel. */
export const cutAssets = ({ client, product, audience, goals, channels }: Brief): Asset[] =>
  channels.map((channel, index) => ({
    channel,
    headline: `${product}: ${goals[index % goals.length]}`,
    copy: `${client} presents ${product} to ${audience} through ${channel}.`,
  }));

/** What is wrong with the assets; the first issue is there whenever the run was told to fail here. */
export function inspect(brief: Brief, assets: readonly Asset[], isForced: boolean): QcIssue[] {
  const forced: QcIssue = { rule: 'forced', severity: 'BLOCKER', message: 'The run was told to fail quality control.' };
  const tooLong = assets.filter(({ headline }) => headline.length > MAX_HEADLINE);
  const nameless = assets.filter(({ copy }) => !copy.includes(brief.product));
  return [
    ...(isForced ? [forced] : []),
    ...tooLong.map(({ channel }) => ({
      rule: 'headline-length',
      severity: 'MINOR' as const,
      message: `The headline for ${channel} has more than ${MAX_HEADLINE} characters.`,
    })),
    ...nameless.map(({ channel }) => ({
      rule: 'product-named',
      severity: 'BLOCKER' as const,
      message: `The copy for ${channel} does not name the product.`,
    })),
  ];
}

/** 100 less what the issues cost, and never below 0. */
export const scoreOf = (issues: readonly QcIssue[]): number =>
  Math.max(0, FULL_SCORE - issues.reduce((cost, { severity }) => cost + POINTS[severity], 0));

/** Whether what has these issues may be delivered. */
export const passes = (issues: readonly QcIssue[]): boolean => issues.every(({ severity }) => severity !== 'BLOCKER');

/** The files of a delivery: one a channel. */
export const pack = (assets: readonly Asset[]): DeliveredFile[] =>
  assets.map(({ channel, headline, copy }) => {
    const content = `${headline}\n\n${copy}\n`;
    const bytes = new TextEncoder().encode(content).length;
    return { name: `${channel}.txt`, content, bytes, digest: fingerprint({ content }) };
  });

function listed(items: readonly string[]): string {
  const last = items.at(-1) ?? '';
  return items.length < 2 ? last : `${items.slice(0, -1).join(', ')} and ${last}`;
}
