import { runProgram, startService } from '#libs/service/run-service.ts';
import { runMigrations } from './adapters/postgres/migrations/index.ts';
import { readRunSettings } from './config.ts';
import { composeRunService } from './container.ts';

await runProgram('run', process.env, runMigrations, () => {
  const settings = readRunSettings(process.env);
  return startService('run', settings, runMigrations, (foundation) => composeRunService(settings, foundation));
});
