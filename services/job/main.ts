import { runProgram, startService } from '#libs/service/run-service.ts';
import { jobMigrations } from './adapters/postgres/migrations/index.ts';
import { readJobSettings } from './config.ts';
import { composeJobService } from './container.ts';

await runProgram('job', process.env, jobMigrations, () => {
  const settings = readJobSettings(process.env);
  return startService('job', settings, jobMigrations, (foundation) => composeJobService(settings, foundation));
});
