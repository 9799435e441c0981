import { registerCompletionHandler } from 'ava';
import { endWithParent } from '#deploy/local/end-with-me.ts';

const PATIENCE_MS = 30_000;

endWithParent();

// A worker that something keeps alive would hold up the whole run, in silence: it fails, and says what it is.
registerCompletionHandler(() => {
  setTimeout(() => {
    const kept = process.getActiveResourcesInfo().filter((name) => name !== 'PipeWrap');
    throw new Error(`The tests of this file are over, and something keeps its process alive: ${kept.join(', ')}.`);
  }, PATIENCE_MS).unref();
});
