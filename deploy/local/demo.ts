import { chmod } from 'node:fs/promises';
import { makeTemporaryFolder } from './end-with-me.ts';
import { runMainJob } from './sample/main-job.ts';
import { startStack } from './stack.ts';

// Runs the main job once on a stack that is thrown away. Exits with 0 only when every count is right.
const { path: folder, remove } = await makeTemporaryFolder('lethe-demo-');
await chmod(folder, 0o755);
try {
  const stack = await startStack({
    folder,
    throwaway: true,
    ports: 'free',
    onGivingUp: (service) => console.error(`${service} keeps dying; see ${folder}/logs/${service}.log`),
  });
  try {
    const mistakes = await runMainJob(stack, (text) => console.log(text));
    for (const mistake of mistakes) console.error(`wrong: ${mistake}`);
    console.log(mistakes.length === 0 ? 'Every count is right.' : `${mistakes.length} counts are wrong.`);
    process.exitCode = mistakes.length === 0 ? 0 : 1;
  } finally {
    await stack.stop();
  }
} finally {
  await remove();
}
