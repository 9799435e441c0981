import {
  type CatalogueChange,
  type CatalogueSubject,
  confirm,
  type OwnerAnswer,
  reconcile,
  retire,
  type SubjectState,
  stateOf,
  subjectNotFound,
} from '../domain/catalogue.ts';
import type { CatalogueRepository, RetentionOwners } from './purge-ports.ts';

/** Who changes the catalogue, and why. */
export interface CatalogueCommand {
  readonly name: string;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string;
}

/** The catalogue of subjects, kept as the owners tell. */
export interface KeepCatalogue {
  /** Asks every owner what it holds and records what changed. An owner that is silent changes nothing. */
  reconcile(): Promise<void>;
  /** By name; undefined: in any state. */
  list(state: SubjectState | undefined): Promise<readonly CatalogueSubject[]>;
  /** SUBJECT_NOT_FOUND. */
  confirm(command: CatalogueCommand): Promise<CatalogueSubject>;
  /** SUBJECT_NOT_FOUND, SUBJECT_LISTED. */
  retire(command: CatalogueCommand): Promise<CatalogueSubject>;
}

/** Called with what happened to a subject when the owners were asked. */
export type OnCatalogueEvent = (change: CatalogueChange) => void;

/** Called when an owner could not be asked. */
export type OnOwnerSilent = (owner: string, error: unknown) => void;

/** Who reconciles. */
const BY = { actor: 'service:retention', subject: 'service:retention', reason: undefined };

/** Makes KeepCatalogue. `observeNightsOf` is for how many nights a new subject of an owner is only counted. */
export function makeKeepCatalogue(
  catalogue: CatalogueRepository,
  owners: RetentionOwners,
  observeNightsOf: (owner: string) => number,
  onEvent: OnCatalogueEvent,
  onSilent: OnOwnerSilent,
): KeepCatalogue {
  const ask = async (owner: string): Promise<OwnerAnswer> => {
    try {
      return { owner, isSilent: false, ...(await owners.list(owner)) };
    } catch (error) {
      onSilent(owner, error);
      return { owner, isSilent: true };
    }
  };
  const change = async (
    { name, ...by }: CatalogueCommand,
    event: 'confirmed' | 'retired',
    decide: (subject: CatalogueSubject, now: Temporal.Instant) => CatalogueSubject,
  ): Promise<CatalogueSubject> => {
    let answer: CatalogueSubject | undefined;
    await catalogue.update(by, (known, now) => {
      const subject = known.find((candidate) => candidate.name === name);
      if (!subject) throw subjectNotFound(name);
      answer = decide(subject, now);
      return answer === subject ? [] : [{ subject: answer, event }];
    });
    if (!answer) throw subjectNotFound(name);
    return answer;
  };
  return {
    async reconcile() {
      const answers = await Promise.all(owners.names.map(ask));
      const changes = await catalogue.update(BY, (known, now) => reconcile(known, answers, now, observeNightsOf));
      for (const { subject, event } of changes) {
        if (event !== undefined && event !== 'confirmed' && event !== 'retired') onEvent({ subject, event });
      }
    },
    list: async (state) =>
      (await catalogue.list()).filter((subject) => state === undefined || stateOf(subject) === state),
    confirm: (command) => change(command, 'confirmed', confirm),
    retire: (command) =>
      change(command, 'retired', (subject, now) => retire(subject, command.actor, command.reason, now)),
  };
}
