import type { Caller } from '#libs/kernel/caller.ts';
import { participantChanged, participantConfigured, participantNotFound } from '../domain/errors.ts';
import type { KnownParticipant, ParticipantDirectory } from './ports.ts';

/** A participant that this installation has or had, and whether this replica has it configured. */
export interface ListedParticipant extends KnownParticipant {
  readonly isConfigured: boolean;
}

/** The participants that deletions of runs wait for. */
export interface KeepParticipants {
  /** Everyone who was ever configured, by name. */
  list(): Promise<readonly ListedParticipant[]>;
  /** Makes the data set that the participant answers from now the known one. PARTICIPANT_NOT_FOUND. */
  confirm(caller: Caller, name: string, reason: string): Promise<ListedParticipant>;
  /**
   * Takes a participant out of all cascades whose service is gone together with its data. Configuring it again brings it
   * back. PARTICIPANT_NOT_FOUND; PARTICIPANT_CONFIGURED while it is configured here.
   */
  retire(caller: Caller, name: string, reason: string): Promise<ListedParticipant>;
}

/** Told of a participant that was retired. */
export type OnRetired = (participant: KnownParticipant) => void;

/** Makes KeepParticipants. `peers` are those that this replica calls. */
export const makeKeepParticipants = (
  directory: ParticipantDirectory,
  peers: readonly { readonly name: string }[],
  onRetired: OnRetired,
): KeepParticipants => {
  const configured = peers.map(({ name }) => name);
  return {
    async list() {
      return (await directory.list()).map((known) => ({ ...known, isConfigured: configured.includes(known.name) }));
    },
    async confirm(caller, name, reason) {
      const confirmed = await directory.confirm(name, caller, reason);
      if (!confirmed) throw participantNotFound(name);
      return { ...confirmed, isConfigured: configured.includes(name) };
    },
    async retire(caller, name, reason) {
      if (configured.includes(name)) throw participantConfigured(name);
      const retired = await directory.retire(name, caller, reason);
      if (!retired) throw participantNotFound(name);
      onRetired(retired);
      return { ...retired, isConfigured: false };
    },
  };
};

/** Passes for the data set that a participant is known to answer from, or that it is the first to tell of. */
export type AssertData = (dataId: string) => Promise<void>;

/** Makes AssertData for one participant: PARTICIPANT_CHANGED for another data set. An empty id is not compared. */
export function makeAssertData(directory: Pick<ParticipantDirectory, 'bindData'>, name: string): AssertData {
  let known = '';
  return async (dataId) => {
    if (dataId === known || dataId === '') return;
    known = '';
    if (!(await directory.bindData(name, dataId))) throw participantChanged(name);
    known = dataId;
  };
}
