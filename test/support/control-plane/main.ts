import { parseArgs } from 'node:util';
import { BINARIES, buildBinaries, hasBinaries } from './binaries.ts';
import { startControlPlane } from './control-plane.ts';
import { OVERLAYS, prepareTrial } from './try-overlays.ts';

// `npm run cluster`: gives a control plane both overlays as deploy/README.md says, and prints how each step went.

const { values } = parseArgs({ options: { build: { type: 'boolean', default: false } } });
if (values.build && !hasBinaries()) await buildBinaries();
if (!hasBinaries()) {
  console.error(`${BINARIES} holds no control plane; npm run cluster -- --build makes it, in minutes`);
  process.exit(2);
}
const plane = await startControlPlane();
let failed = 0;
try {
  const trial = await prepareTrial(plane);
  try {
    for (const overlay of OVERLAYS) {
      console.log(overlay);
      for (const [step, findings] of Object.entries(await trial.tryOverlay(overlay))) {
        console.log(`  ${findings.length === 0 ? 'ok' : 'NOT AS EXPECTED'}: ${step}`);
        for (const finding of findings) console.log(`    ${finding}`);
        failed += findings.length;
      }
    }
  } finally {
    await trial.dispose();
  }
} finally {
  await plane.stop();
}
process.exit(failed > 0 ? 1 : 0);
