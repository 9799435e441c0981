import { parseArgs } from 'node:util';
import { SERVICE_NAMES } from '#deploy/local/stack.ts';
import { FAULTS } from './faults.ts';
import { layGround } from './ground.ts';
import { describeSeconds, measure } from './measure.ts';

// Longer than this after a fault is called late; how long a machine takes that is busy says nothing of Lethe.
const LATE_S = 5;

const { values } = parseArgs({ options: { only: { type: 'string', default: '' } } });
const ground = await layGround();
let failed = 0;
try {
  for (const fault of FAULTS.filter(({ on, name }) => new RegExp(values.only).test(`${on}, ${name}`))) {
    const title = `${fault.on}, ${fault.name}`;
    if (fault.needs && !ground.objects) {
      console.log(`${title}\n  skipped: ${fault.needs} was not found`);
      continue;
    }
    const { outcomes, watches, seconds, findings } = await measure(ground, fault);
    console.log(title);
    for (const name of SERVICE_NAMES) {
      const told = (['read', 'write'] as const).map((kind) => `${kind} ${[...outcomes[name][kind].keys()].join(', ')}`);
      const watch = name === 'incident' ? [] : [`watch ${watches[name]}`];
      console.log(`  ${name}: ${[...told, ...watch].join('; ')}`);
    }
    const late = Math.max(seconds.calls, seconds.ready, ...Object.values(seconds.work)) > LATE_S ? ' LATE' : '';
    console.log(`  good again after: ${describeSeconds(seconds)}${late}`);
    for (const finding of findings) console.log(`  NOT AS EXPECTED: ${finding}`);
    failed += findings.length;
  }
} finally {
  await ground.dispose();
}
process.exit(failed > 0 ? 1 : 0);
