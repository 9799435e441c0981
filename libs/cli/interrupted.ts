/** Ctrl-C ended a wait. `advice` says how to see or stop what goes on without it; empty where nothing does. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly advice: string;

  constructor(advice: string) {
    super('interrupted');
    this.advice = advice;
  }
}
