import { DomainError } from '#libs/kernel/domain-error.ts';

/** Where a subject of the catalogue stands. */
export const SUBJECT_STATES = [
  'ACTIVE',
  'OBSERVED',
  'CONFLICT',
  'OWNER_CHANGED',
  'OWNER_UNKNOWN',
  'UNLISTED',
  'RETIRED',
] as const;

/** One of SUBJECT_STATES. */
export type SubjectState = (typeof SUBJECT_STATES)[number];

/** What an owner says about one of its subjects. */
export interface ListedSubject {
  readonly name: string;
  readonly resourceType: string;
  readonly dependentTypes: readonly string[];
  readonly ageOf: string;
  readonly hasFloor: boolean;
}

/** What one configured owner answered when it was asked for its subjects. */
export type OwnerAnswer =
  | {
      readonly owner: string;
      readonly isSilent: false;
      readonly dataId: string;
      readonly subjects: readonly ListedSubject[];
    }
  /** It did not answer, or not in a way that can be understood: nothing about it is known. */
  | { readonly owner: string; readonly isSilent: true };

/** Another data set than the one a subject is bound to; nothing is purged there until a person confirms it. */
export interface Claim {
  readonly owner: string;
  readonly dataId: string;
}

/** One kind of rows that some owner holds. The catalogue outlives outages, renames and moves of owners. */
export interface CatalogueSubject extends ListedSubject {
  /** The owner it is bound to, by its name in the configuration. */
  readonly owner: string;
  /** The data set it is bound to; undefined until an owner lists it for the first time. */
  readonly dataId: string | undefined;
  readonly problem: SubjectProblem | undefined;
  /** Undefined unless the problem is OWNER_CHANGED. */
  readonly claim: Claim | undefined;
  /** When an owner last listed it; undefined: never. */
  readonly listedAt: Temporal.Instant | undefined;
  /** For how many more nights it is only counted. */
  readonly observeNightsLeft: number;
  readonly retirement: { readonly at: Temporal.Instant; readonly by: string; readonly reason: string } | undefined;
}

/** What keeps a subject from being purged. */
export type SubjectProblem = 'SUBJECT_CONFLICT' | 'OWNER_CHANGED' | 'OWNER_UNKNOWN' | 'SUBJECT_UNLISTED';

/** What happened to a subject when the owners were asked; it goes into the audit. */
export type CatalogueEvent =
  | 'added'
  | 'bound'
  | 'rebound'
  | 'revived'
  | 'recovered'
  | 'floor-added'
  | 'floor-dropped'
  | SubjectProblem;

/** A subject as it is to be stored, and what happened to it; `event` undefined: it was only listed again. */
export interface CatalogueChange {
  readonly subject: CatalogueSubject;
  readonly event: CatalogueEvent | undefined;
}

const STATE_OF: Readonly<Record<SubjectProblem, SubjectState>> = {
  SUBJECT_CONFLICT: 'CONFLICT',
  OWNER_CHANGED: 'OWNER_CHANGED',
  OWNER_UNKNOWN: 'OWNER_UNKNOWN',
  SUBJECT_UNLISTED: 'UNLISTED',
};

/** Where the subject stands. */
export function stateOf(subject: CatalogueSubject): SubjectState {
  if (subject.retirement) return 'RETIRED';
  if (subject.problem) return STATE_OF[subject.problem];
  return subject.observeNightsLeft > 0 ? 'OBSERVED' : 'ACTIVE';
}

/** Why the subject cannot be purged, as a DomainError; undefined when its owner can be called. */
export function problemOf(subject: CatalogueSubject): DomainError | undefined {
  const { name, owner, problem } = subject;
  if (problem) {
    return new DomainError('failed-precondition', problem, SENTENCE_OF[problem](subject), { subject: name, owner });
  }
  // Known from the start and not listed by anybody yet: like an owner that does not answer.
  if (subject.dataId === undefined) {
    return new DomainError(
      'unavailable',
      'DEPENDENCY_UNAVAILABLE',
      `The owner ${owner} has not listed ${name} yet; try again later.`,
      { dependency: `owner ${owner}` },
    );
  }
  return undefined;
}

const SENTENCE_OF: Readonly<Record<SubjectProblem, (subject: CatalogueSubject) => string>> = {
  SUBJECT_CONFLICT: ({ name }) => `More than one owner lists ${name}; none of them is called.`,
  OWNER_CHANGED: ({ name, owner, claim }) =>
    `${claim?.owner ?? owner} holds ${name} in another data set than before; confirm the subject if that is right.`,
  OWNER_UNKNOWN: ({ name, owner }) =>
    `The owner ${owner} of ${name} is not configured; configure it, or retire the subject.`,
  SUBJECT_UNLISTED: ({ name, owner }) =>
    `The owner ${owner} no longer lists ${name}; retire the subject if that is right.`,
};

/**
 * Compares the catalogue with what the owners answered. Every configured owner must be among `answers`. Answers only
 * the subjects that change; one whose owner is silent stays as it is.
 */
export function reconcile(
  known: readonly CatalogueSubject[],
  answers: readonly OwnerAnswer[],
  now: Temporal.Instant,
  observeNightsOf: (owner: string) => number,
): readonly CatalogueChange[] {
  const listings = new Map<string, Listing[]>();
  for (const answer of answers) {
    if (answer.isSilent) continue;
    for (const listed of answer.subjects) {
      const { owner, dataId } = answer;
      listings.set(listed.name, [...(listings.get(listed.name) ?? []), { owner, dataId, listed }]);
    }
  }
  const changes = known.flatMap((subject) => {
    const change = compare(subject, listings.get(subject.name) ?? [], answers, now, observeNightsOf);
    return change ? [change] : [];
  });
  const names = new Set(known.map(({ name }) => name));
  for (const [name, found] of listings) {
    const [first] = found;
    if (names.has(name) || !first) continue;
    const isContested = found.length > 1;
    changes.push({
      subject: {
        ...first.listed,
        owner: first.owner,
        // Whoever of them it is in the end is bound as the first one.
        dataId: isContested ? undefined : first.dataId,
        problem: isContested ? 'SUBJECT_CONFLICT' : undefined,
        claim: undefined,
        listedAt: now,
        observeNightsLeft: Math.max(...found.map(({ owner }) => observeNightsOf(owner))),
        retirement: undefined,
      },
      event: isContested ? 'SUBJECT_CONFLICT' : 'added',
    });
  }
  return changes;
}

interface Listing {
  readonly owner: string;
  readonly dataId: string;
  readonly listed: ListedSubject;
}

function compare(
  subject: CatalogueSubject,
  found: readonly Listing[],
  answers: readonly OwnerAnswer[],
  now: Temporal.Instant,
  observeNightsOf: (owner: string) => number,
): CatalogueChange | undefined {
  const own = answers.find(({ owner }) => owner === subject.owner);
  const [first] = found;
  if (!first) {
    if (subject.retirement) return undefined;
    if (!own) return withProblem(subject, 'OWNER_UNKNOWN');
    if (!own.isSilent) return withProblem(subject, 'SUBJECT_UNLISTED');
    // Nothing is known of it but that its owner is configured again.
    return subject.problem === 'OWNER_UNKNOWN' ? recovered(subject) : undefined;
  }
  // An owner that is bound, configured and silent may hold it still.
  const isContested = found.length > 1 || (own?.isSilent === true && first.owner !== subject.owner);
  if (isContested) return withProblem({ ...subject, retirement: undefined }, 'SUBJECT_CONFLICT', now);
  const { owner, dataId, listed } = first;
  if (subject.dataId !== undefined && subject.dataId !== dataId) {
    const claim = { owner, dataId };
    const changed = { ...subject, claim, retirement: undefined };
    const isSame = subject.claim?.owner === owner && subject.claim.dataId === dataId;
    return isSame
      ? undefined
      : { subject: { ...changed, problem: 'OWNER_CHANGED', listedAt: now }, event: 'OWNER_CHANGED' };
  }
  const bound: CatalogueSubject = {
    ...subject,
    ...listed,
    owner,
    dataId,
    problem: undefined,
    claim: undefined,
    listedAt: now,
    retirement: undefined,
    observeNightsLeft: subject.dataId === undefined ? observeNightsOf(owner) : subject.observeNightsLeft,
  };
  return { subject: bound, event: eventOf(subject, bound) };
}

function eventOf(before: CatalogueSubject, after: CatalogueSubject): CatalogueEvent | undefined {
  if (before.retirement) return 'revived';
  if (before.dataId === undefined) return 'bound';
  if (before.owner !== after.owner) return 'rebound';
  if (before.problem) return 'recovered';
  if (before.hasFloor === after.hasFloor) return undefined;
  return after.hasFloor ? 'floor-added' : 'floor-dropped';
}

const recovered = (subject: CatalogueSubject): CatalogueChange => ({
  subject: { ...subject, problem: undefined },
  event: 'recovered',
});

const withProblem = (
  subject: CatalogueSubject,
  problem: SubjectProblem,
  listedAt = subject.listedAt,
): CatalogueChange | undefined =>
  subject.problem === problem
    ? undefined
    : { subject: { ...subject, problem, claim: undefined, listedAt }, event: problem };

/** The subject, bound to the data set that its owner claims. One that is not OWNER_CHANGED stays as it is. */
export const confirm = (subject: CatalogueSubject): CatalogueSubject =>
  subject.problem === 'OWNER_CHANGED' && subject.claim
    ? { ...subject, ...subject.claim, problem: undefined, claim: undefined }
    : subject;

/** The subject, retired. One that is retired stays as it is; SUBJECT_LISTED while an owner lists it. */
export function retire(subject: CatalogueSubject, by: string, reason: string, at: Temporal.Instant): CatalogueSubject {
  if (subject.retirement) return subject;
  const isGone = subject.problem === 'OWNER_UNKNOWN' || subject.problem === 'SUBJECT_UNLISTED';
  if (!isGone) {
    throw new DomainError(
      'failed-precondition',
      'SUBJECT_LISTED',
      `${subject.name} is held by ${subject.owner}; it can be retired when no owner lists it.`,
      { subject: subject.name, owner: subject.owner },
    );
  }
  return { ...subject, retirement: { at, by, reason } };
}

/** No subject of the catalogue has this name. */
export const subjectNotFound = (name: string): DomainError =>
  new DomainError('not-found', 'SUBJECT_NOT_FOUND', `The catalogue has no subject ${name}.`, { subject: name });
