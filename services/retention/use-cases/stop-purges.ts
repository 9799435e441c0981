import type { PurgeStop } from '../domain/purge-stop.ts';
import type { StopRepository } from './purge-ports.ts';

/** Who switches, and why. */
export interface StopCommand {
  readonly actor: string;
  readonly subject: string;
  readonly reason: string;
}

/** The stop switch over everything that is purged by age. */
export interface StopPurges {
  get(): Promise<PurgeStop>;
  /** Every purge stops before its next call to an owner. Purges that are stopped stay so. */
  stop(command: StopCommand): Promise<PurgeStop>;
  /** What waited goes on. */
  resume(command: StopCommand): Promise<PurgeStop>;
}

/** Called when purges were stopped, or go on. */
export type OnStopSwitched = (stop: PurgeStop) => void;

/** Makes StopPurges; `onSwitched` is called when the switch was turned, not when it stood so already. */
export const makeStopPurges = (stops: StopRepository, onSwitched: OnStopSwitched): StopPurges => {
  const turn = async (isStopped: boolean, command: StopCommand): Promise<PurgeStop> => {
    const { version } = await stops.get();
    const stop = await stops.set({ ...command, isStopped });
    if (stop.version !== version) onSwitched(stop);
    return stop;
  };
  return {
    get: stops.get,
    stop: (command) => turn(true, command),
    resume: (command) => turn(false, command),
  };
};
