/** Nobody reads standard output any more, and the command had nothing to do but to write to it. */
export class Unread extends Error {
  override readonly name = 'Unread';

  constructor() {
    super('nobody reads standard output');
  }
}
